//! Messages of many IP fragments, each of which lands on a random edge.

use anyhow::{Result, ensure};
use tests::capture::checksums_are_right;
use tests::forwarder::Cluster;
use tests::forwarder::outcomes::{CALLS, HELD};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Lab, Spray};
use tests::load::{Load, ensure_one_edge_answers, ensure_one_edge_each, run_load};
use tests::sipp::{Padding, Place, Shape};

/// What moves at every edge where fragments are sprayed over all.
const REASSEMBLED: [&str; 5] =
    ["punted_fragment", "forwarded_fragment", "decap_punted_fragment", "slow_reassembling", "slow_reassembled"];
/// What may move with them, by where each datagram is made whole and whose it is.
const FRAGMENTS: [&str; 3] = ["slow_received", "egress_punted", "egress_fragment"];

#[test]
fn one_edge_alone_takes_large_invites_and_answers() -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        lab.spray(&Spray::To(1))?;
        for (family, bytes, place) in [(Family::V4, 2400, Place::AfterKeys), (Family::V6, 19_400, Place::BeforeKeys)] {
            let padding = Some(Padding { bytes, place });
            let shape = Shape { request: padding, answer: padding, ..Shape::default() };
            let load = Load { count: 80, shape, ..Load::usual(family) };
            let (alone, _) = run_load(lab, "alone", &load, &edges, None)?;
            eprintln!("one edge alone: {alone:?}");
            alone.ensure_perfect(&load)?;
            ensure!(alone.retransmissions == 0, "messages were sent again: {alone:?}");
        }
        Ok(())
    })
}

#[test]
fn invites_of_3_kb_arrive_v4() -> Result<()> {
    large_calls_go_well(Family::V4, Family::V4, &load(Family::V4, 200, 2400, Place::AfterKeys))
}

#[test]
fn invites_of_3_kb_arrive_v6() -> Result<()> {
    large_calls_go_well(Family::V6, Family::V6, &load(Family::V6, 200, 2400, Place::BeforeKeys))
}

#[test]
fn invites_of_20_kb_arrive_v4() -> Result<()> {
    large_calls_go_well(Family::V4, Family::V6, &load(Family::V4, 200, 19_400, Place::BeforeKeys))
}

#[test]
fn invites_of_20_kb_arrive_v6() -> Result<()> {
    large_calls_go_well(Family::V6, Family::V4, &load(Family::V6, 200, 19_400, Place::Body))
}

#[test]
fn answers_of_3_kb_and_of_20_kb_arrive() -> Result<()> {
    for (family, bytes, place) in [(Family::V4, 2600, Place::BeforeKeys), (Family::V6, 19_600, Place::AfterKeys)] {
        let mut load = load(family, 40, 0, place);
        load.shape = Shape { answer: Some(Padding { bytes, place }), ..Shape::default() };
        large_calls_go_well(family, family, &load)?;
    }
    Ok(())
}

fn load(family: Family, count: u32, bytes: usize, place: Place) -> Load {
    let shape = Shape { request: Some(Padding { bytes, place }), ..Shape::default() };
    Load { count, shape, ..Load::usual(family) }
}

fn large_calls_go_well(service: Family, underlay: Family, load: &Load) -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let mut cluster = Cluster::start(lab, underlay)?;
        let before = cluster.outcomes()?;
        let (report, datagrams) = run_load(lab, "sprayed", load, &edges, Some(&cluster))?;
        eprintln!("over three edges: {report:?}");
        report.ensure_perfect(load)?;
        // As with one edge: none.
        ensure!(report.retransmissions == 0, "messages were sent again: {report:?}");
        ensure_one_edge_each(&edges)?;
        ensure_one_edge_answers(&datagrams, service)?;
        let moves = cluster.outcomes()?.since(&before);
        let may: Vec<&str> = CALLS.into_iter().chain(HELD).chain(FRAGMENTS).collect();
        moves.only("large messages", &REASSEMBLED, &may)?;
        let reassembled = moves.sum("slow_reassembled");
        ensure!(reassembled >= u64::from(load.count), "only {reassembled} datagrams were made whole from fragments");
        checksums_are_right(&lab.folder().join("sprayed.pcap"))?;
        cluster.stop()
    })
}
