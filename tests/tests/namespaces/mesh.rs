//! The daemons' own network goes bad: losses, a partition, and its healing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::forwarder::Cluster;
use tests::forwarder::outcomes::{CALLS, HELD};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Lab, Spray};
use tests::load::{Load, ensure_one_edge_answers, ensure_one_edge_each, run_load};
use tests::poll::poll_until_true;
use tests::sipp::Kind;

/// Packets lost of a hundred.
const LOST: u8 = 10;
/// How long the mesh is cut.
const CUT: Duration = Duration::from_secs(10);

#[test]
fn calls_go_well_while_a_tenth_of_the_daemons_packets_is_lost_v4() -> Result<()> {
    losses_harm_nothing(Family::V4)
}

#[test]
fn calls_go_well_while_a_tenth_of_the_daemons_packets_is_lost_v6() -> Result<()> {
    losses_harm_nothing(Family::V6)
}

fn losses_harm_nothing(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let mut cluster = Cluster::start(lab, family)?;
        lab.router().lose_links(LOST)?;
        let before = cluster.outcomes()?;
        let load = Load { count: 120, ..Load::usual(family) };
        let (report, datagrams) = run_load(lab, "losses", &load, &edges, Some(&cluster))?;
        eprintln!("with {LOST} % lost: {report:?}");
        report.ensure_perfect(&load)?;
        ensure_one_edge_each(&edges)?;
        ensure_one_edge_answers(&datagrams, family)?;
        let races: Vec<&str> = HELD.into_iter().chain(["slow_received"]).collect();
        cluster.outcomes()?.since(&before).only("losses", &CALLS, &races)?;
        cluster.stop()
    })
}

#[test]
fn both_sides_of_a_partition_work_and_become_one_cluster_again() -> Result<()> {
    let family = Family::V4;
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let mut cluster = Cluster::start(lab, family)?;
        lab.router().cut_links(1)?;
        let cut = Instant::now();
        cluster.edge(1)?.wait_for_peers(0)?;
        cluster.edge(2)?.wait_for_peers(1)?;
        cluster.edge(3)?.wait_for_peers(1)?;
        // Calls are edge 1's, cancelled ones the other side's; each is whole on its side.
        lab.spray(&Spray::Apart { port: Kind::Call.caller(), edge: 1, others: vec![2, 3] })?;
        let load = Load::of(&[Kind::Call, Kind::Cancel], 120, 40, family);
        let (report, datagrams) = run_load(lab, "apart", &load, &edges, Some(&cluster))?;
        eprintln!("apart: {report:?}");
        report.ensure_perfect(&load)?;
        ensure!(cluster.edge(1)?.peers_up()? == 0, "the mesh was not cut all the time");
        poll_until_true("the mesh was cut for long enough", CUT, || Ok(cut.elapsed() >= CUT))?;

        lab.router().mend_links()?;
        let mended = Instant::now();
        cluster.wait_until_linked()?;
        eprintln!("together again {:?} after the mending", mended.elapsed());
        // Each side knows what the other has claimed meanwhile.
        for kind in [Kind::Call, Kind::Cancel] {
            let caller = kind.caller();
            let last = datagrams
                .iter()
                .rev()
                .find(|datagram| datagram.source.1 == caller && datagram.payload.starts_with(b"INVITE "));
            let call = last.and_then(|datagram| datagram.header("Call-ID")).context("find the last call")?;
            let owner =
                (1..).zip(&edges).find(|(_, edge)| edge.events().iter().any(|event| event.word("callid") == call));
            let (owner, _) = owner.with_context(|| format!("find the edge that had {call}"))?;
            cluster.wait_for_owner(&call, 1, None, owner)?;
        }
        lab.spray(&Spray::Random)?;
        let before = cluster.outcomes()?;
        let load = Load { count: 80, ..Load::usual(family) };
        let (report, datagrams) = run_load(lab, "together", &load, &edges, Some(&cluster))?;
        eprintln!("together: {report:?}");
        report.ensure_perfect(&load)?;
        ensure_one_edge_answers(&datagrams, family)?;
        ensure!(report.forwarded > report.calls / 2, "hardly anything was forwarded: {report:?}");
        cluster.outcomes()?.since(&before).only("calls after a partition", &CALLS, &HELD)?;
        cluster.stop()
    })
}
