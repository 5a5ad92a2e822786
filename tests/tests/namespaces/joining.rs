//! An edge that nobody was told of joins a running cluster under load, takes its share, and leaves in order.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use forwarder_common::outcome::Outcome;
use tests::forwarder::outcomes::{CALLS, CLAIMS_LATE, HELD};
use tests::forwarder::{Cluster, Config, Daemon};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Lab, Spray};
use tests::poll::poll_until_true;
use tests::sipp::{Kind, Shape, Sipp};

/// Calls a second.
const RATE: u32 = 40;
/// More than the test lasts.
const MANY: u32 = 100_000;

#[test]
fn an_edge_joins_by_one_seed_takes_its_share_and_leaves() -> Result<()> {
    let family = Family::V6;
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        // Of two edges each knows the other, and the third knows the first.
        let change = |config: Config| {
            let seed = if config.node == 1 { 2 } else { 1 };
            config.probed().hurried().seeded(family, &[seed])
        };
        let mut cluster = Cluster::start_some(lab, family, [1, 2], change)?;
        for daemon in &mut cluster.daemons {
            daemon.wait_for_peers(1)?;
            daemon.wait_for_state("up")?;
        }
        let pids: Vec<u32> = cluster.daemons.iter_mut().map(|daemon| daemon.process().id()).collect();
        lab.spray(&Spray::Over(vec![1, 2]))?;
        let outcomes = cluster.outcomes()?;
        let mut callee = Sipp::callee(lab, Kind::Call, family, Shape::default())?;
        let mut caller = Sipp::caller(lab, Kind::Call, family, (MANY, RATE), Shape::default())?;
        let go_on = |caller: &Sipp, seconds: u32| {
            let until = caller.begun() + u64::from(seconds * RATE);
            poll_until_true("calls go on", Duration::from_secs(20), || Ok(caller.begun() >= until))
        };
        go_on(&caller, 3)?;

        let started = Instant::now();
        let config = change(Config::new(lab, &cluster.authority, 3, family));
        cluster.daemons.push(Daemon::start(lab, 3, &config)?);
        cluster.wait_until_linked()?;
        cluster.edge(3)?.wait_for_state("up")?;
        eprintln!("edge 3 has joined after {:?}", started.elapsed());
        let joined = cluster.edge(3)?.outcomes()?;
        lab.spray(&Spray::Random)?;
        go_on(&caller, 4)?;

        lab.spray(&Spray::Over(vec![1, 2]))?;
        cluster.edge(3)?.tell(&["drain", "--wait"])?;
        let may = [&HELD[..], &CLAIMS_LATE].concat();
        let third = cluster.edge(3)?.outcomes()?.since(&joined);
        eprintln!("edge 3: {third:?}");
        third.only("an edge that joined", &CALLS, &may)?;
        let mut third = cluster.daemons.pop().context("find the daemon of edge 3")?;
        let status = third.process().stop()?;
        ensure!(status.code() == Some(0), "the daemon of edge 3 ended with {status}");
        // Its programs answer for a minute more.
        for daemon in &mut cluster.daemons {
            poll_until_true("the edge that left is down", Duration::from_secs(90), || Ok(daemon.peers_up()? == 1))?;
        }
        go_on(&caller, 3)?;
        let calls = caller.stop()?;
        callee.stop()?;
        eprintln!("{calls:?}");
        ensure!(calls.failed == 0 && calls.successful == calls.calls, "calls were lost: {calls:?}");
        let took = edges.iter().map(|edge| edge.count("matched_reply")).collect::<Vec<_>>();
        ensure!(took.iter().all(|count| *count > 50), "an edge did not take its share: {took:?}");
        let strays: u64 = edges.iter().map(|edge| edge.count("stray_reply") + edge.count("stray_ack")).sum();
        ensure!(strays == 0, "{strays} messages reached an edge without their transaction");
        let still: Vec<u32> = cluster.daemons.iter_mut().map(|daemon| daemon.process().id()).collect();
        ensure!(still == pids, "a daemon was restarted");
        let moves = cluster.outcomes()?.since(&outcomes);
        eprintln!("{moves:?}");
        // The edge that joins may ask the others' programs before their daemons have told those of it.
        moves.only("an edge that came and went", &CALLS, &[&may[..], &[Outcome::DecapUnknownPeer.name()]].concat())?;
        let unknown = moves.sum(Outcome::DecapUnknownPeer.name());
        ensure!(unknown <= 2, "{unknown} packets of an edge were refused for its not being known");
        cluster.stop()
    })
}
