//! An interface that goes down and up, or disappears and returns, is attached again, and calls go on.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::attached::programs;
use tests::forwarder::Cluster;
use tests::forwarder::outcomes::{CALLS, HELD};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Host, Lab};
use tests::load::{Load, ensure_one_edge_answers, ensure_one_edge_each, run_load};
use tests::poll::poll_until_true;
use tests::sipp::{Padding, Place, Shape};

#[test]
fn calls_work_after_an_interface_went_down_and_up() -> Result<()> {
    calls_work_after(Family::V4, |lab| lab.wiring().bounce(1))
}

#[test]
fn calls_work_after_an_interface_disappeared_and_returned_v4() -> Result<()> {
    calls_work_after(Family::V4, |lab| lab.wiring().replace_cable(1))
}

#[test]
fn calls_work_after_an_interface_disappeared_and_returned_v6() -> Result<()> {
    calls_work_after(Family::V6, |lab| lab.wiring().replace_cable(1))
}

#[test]
fn what_the_daemon_injects_arrives_after_the_mac_address_changed() -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let mut cluster = Cluster::start(lab, Family::V4)?;
        lab.wiring().set_mac(1, "02:00:00:00:77:01")?;
        let sentence = "interface eth0: its MAC address has changed";
        poll_until_true("the daemon has the new address", Duration::from_secs(10), || {
            Ok(cluster.edge(1)?.log().contains(sentence))
        })?;
        // In fragments: each is made whole by a daemon, and injected there or sent on.
        let shape = Shape { request: Some(Padding { bytes: 2400, place: Place::AfterKeys }), ..Shape::default() };
        let load = Load { count: 60, shape, ..Load::usual(Family::V4) };
        let (report, _) = run_load(lab, "changed", &load, &edges, Some(&cluster))?;
        report.ensure_perfect(&load)?;
        ensure_one_edge_each(&edges)?;
        ensure!(cluster.edge(1)?.outcomes()?.of("slow_local") > 0, "edge 1 has injected nothing");
        cluster.stop()
    })
}

fn calls_work_after(family: Family, change: fn(&Lab) -> Result<()>) -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let mut cluster = Cluster::start(lab, family)?;
        let attached = programs(lab, Host::Edge(1))?;
        change(lab)?;
        poll_until_true("eth0 of edge 1 is attached as before", Duration::from_secs(10), || {
            cluster.edge(1)?.process().must_run()?;
            Ok(programs(lab, Host::Edge(1))? == attached)
        })?;
        cluster.wait_until_linked()?;
        let before = cluster.outcomes()?;
        let load = Load { count: 60, ..Load::usual(family) };
        let (report, datagrams) = run_load(lab, "returned", &load, &edges, Some(&cluster))?;
        report.ensure_perfect(&load)?;
        ensure!(report.forwarded > 0, "nothing was forwarded: {report:?}");
        ensure_one_edge_each(&edges)?;
        ensure_one_edge_answers(&datagrams, family)?;
        cluster.outcomes()?.since(&before).only("calls after an interface returned", &CALLS, &HELD)?;
        cluster.stop()
    })
}
