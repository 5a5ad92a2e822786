//! The main job: every message of a transaction reaches the edge that owns it.

use anyhow::{Result, ensure};
use tests::capture::checksums_are_right;
use tests::forwarder::Cluster;
use tests::forwarder::outcomes::{CALLS, HELD};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Lab, Spray};
use tests::load::{Load, ensure_one_edge_answers, ensure_one_edge_each, run_load};

#[test]
fn calls_over_three_edges_go_as_well_as_over_one_v4() -> Result<()> {
    calls_go_well(Family::V4, Family::V4, 200)
}

#[test]
fn calls_over_three_edges_go_as_well_as_over_one_v6() -> Result<()> {
    calls_go_well(Family::V6, Family::V6, 200)
}

#[test]
fn calls_of_ipv4_cross_an_ipv6_underlay() -> Result<()> {
    calls_go_well(Family::V4, Family::V6, 60)
}

#[test]
fn calls_of_ipv6_cross_an_ipv4_underlay() -> Result<()> {
    calls_go_well(Family::V6, Family::V4, 60)
}

/// `count` calls of each kind.
fn calls_go_well(service: Family, underlay: Family, count: u32) -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let load = Load { count, ..Load::usual(service) };
        lab.spray(&Spray::To(1))?;
        let (alone, _) = run_load(lab, "alone", &load, &edges, None)?;
        alone.ensure_perfect(&load)?;

        let mut cluster = Cluster::start(lab, underlay)?;
        lab.spray(&Spray::Random)?;
        let before = cluster.outcomes()?;
        let (report, datagrams) = run_load(lab, "sprayed", &load, &edges, Some(&cluster))?;
        report.ensure_perfect(&load)?;
        ensure!(report.retransmissions <= alone.retransmissions, "more was sent again than with one edge: {report:?}");
        ensure!(report.forwarded > report.calls, "hardly anything was forwarded: {report:?}");
        ensure_one_edge_each(&edges)?;
        ensure_one_edge_answers(&datagrams, service)?;
        cluster.outcomes()?.since(&before).only("calls", &CALLS, &HELD)?;
        checksums_are_right(&lab.folder().join("sprayed.pcap"))?;
        cluster.stop()
    })
}
