//! Edges that are drained, restarted with their proxies and put back, under load: not one call is lost.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::forwarder::outcomes::{CALLS, HELD};
use tests::forwarder::{Cluster, Daemon};
use tests::kamailio::Kamailio;
use tests::lab::routing::{self, Routing};
use tests::lab::{EDGES, Family, Lab};
use tests::poll::poll_until_true;
use tests::sipp::{Kind, Shape, Sipp};

/// Calls of each kind a second.
const RATE: u32 = 20;
/// Calls that end before a drain begins.
const CALLS_BEFORE: u32 = 20;
/// More than a test lasts.
const MANY: u32 = 100_000;

#[test]
fn an_edge_that_is_drained_and_restarted_loses_no_call_v6() -> Result<()> {
    restarts_lose_nothing(Family::V6, &[2])
}

#[test]
fn a_rolling_restart_of_all_edges_loses_no_call_v4() -> Result<()> {
    let all: Vec<u8> = (1..=EDGES).collect();
    restarts_lose_nothing(Family::V4, &all)
}

/// An answered call's claims last for as long as SIP's timers may run, here for eleven minutes and more. A drain waits
/// for what a message could still need.
#[test]
fn a_drain_ends_before_the_claims_of_calls_that_were_set_up_v4() -> Result<()> {
    Lab::run(|lab| {
        let _proxies = Kamailio::edges(lab, true)?;
        let mut cluster = Cluster::start_with(lab, Family::V4, |mut config| {
            config.timers.insert("t1_ms", "10000".to_owned());
            config
        })?;
        cluster.wait_until_linked()?;
        let mut callee = Sipp::callee(lab, Kind::Call, Family::V4, Shape::default())?;
        let mut caller = Sipp::caller(lab, Kind::Call, Family::V4, (CALLS_BEFORE, RATE), Shape::default())?;
        let calls = caller.finish(Duration::from_secs(60))?;
        callee.stop()?;
        ensure!(calls.successful == u64::from(CALLS_BEFORE), "{calls:?}");
        let claims = |daemon: &Daemon| -> Result<u64> {
            let status = daemon.status()?;
            status["claims"]["own"].as_u64().context("find this node's claims in the status")
        };
        let mut waited_for = 0;
        for daemon in &cluster.daemons {
            let before = claims(daemon)?;
            let said = daemon.tell(&["drain", "--wait"])?;
            let after = claims(daemon)?;
            eprintln!("{before} claims, then {after}: {said}");
            ensure!(said.contains("no transaction is left\n"), "it has waited for something else: {said}");
            ensure!(before > 0 && after == before, "{before} claims, then {after}: they were to outlast it");
            waited_for += u64::from(said.contains("left, and"));
            daemon.tell(&["undrain"])?;
        }
        ensure!(waited_for > 0, "none has waited for the last of these calls");
        cluster.stop()
    })
}

fn restarts_lose_nothing(family: Family, restarted: &[u8]) -> Result<()> {
    Lab::run(|lab| {
        let mut edges = Kamailio::edges(lab, true)?;
        let hook = routing::hook(lab)?;
        let mut cluster = Cluster::start_with(lab, family, |config| config.probed().hurried().hooked(&hook))?;
        for daemon in &mut cluster.daemons {
            daemon.wait_for_state("up")?;
        }
        let _routing = Routing::follow_hooks(lab);
        let before = cluster.outcomes()?;
        let kinds = [Kind::Call, Kind::Cancel, Kind::Busy];
        let mut pairs = Vec::new();
        for kind in kinds {
            let callee = Sipp::callee(lab, kind, family, Shape::default())?;
            pairs.push((kind, callee, Sipp::caller(lab, kind, family, (MANY, RATE), Shape::default())?));
        }
        let strays = |edges: &[Kamailio]| -> u64 {
            ["stray_reply", "stray_ack", "stray_cancel"]
                .iter()
                .map(|kind| edges.iter().map(|edge| edge.count(kind)).sum::<u64>())
                .sum()
        };
        for number in restarted {
            let begun = pairs.first().map_or(0, |(_, _, caller)| caller.begun());
            poll_until_true("calls go on", Duration::from_secs(20), || {
                Ok(pairs.first().is_some_and(|(_, _, caller)| caller.begun() >= begun + 3 * u64::from(RATE)))
            })?;
            let daemon = cluster.edge(*number)?;
            let drained = daemon.tell(&["drain", "--wait"])?;
            eprintln!("edge {number}: {}", drained.lines().last().unwrap_or_default());
            let status = daemon.process().stop()?;
            ensure!(status.code() == Some(0), "the daemon of edge {number} ended with {status}");
            let proxy = edges.get_mut(usize::from(*number) - 1).context("find an edge's proxy")?;
            proxy.stop()?;
            *proxy = Kamailio::edge(lab, *number, true)?;
            let daemon = cluster.edge(*number)?;
            daemon.start_again()?;
            daemon.wait_for_peers(usize::from(EDGES) - 1)?;
            daemon.wait_for_state("draining")?;
            daemon.tell(&["undrain"])?;
            daemon.wait_for_state("up")?;
            let wanted = "joining up\nup draining\njoining draining\ndraining up\n";
            poll_until_true("the hook was told of every state", Duration::from_secs(5), || {
                Ok(routing::hooked(lab, *number) == wanted)
            })
            .with_context(|| format!("told was {:?}", routing::hooked(lab, *number)))?;
        }
        let mut all = 0;
        for (kind, callee, caller) in &mut pairs {
            let calls = caller.stop()?;
            callee.stop()?;
            eprintln!("{kind:?}: {calls:?}");
            ensure!(calls.failed == 0 && calls.successful == calls.calls, "calls were lost: {kind:?} {calls:?}");
            all += calls.calls;
        }
        ensure!(all > u64::from(RATE) * 15, "only {all} calls were made");
        let strays = strays(&edges);
        ensure!(strays == 0, "{strays} messages reached an edge without their transaction");
        // A request may land at an edge between its drain and the end of its route.
        let races: Vec<&str> = HELD.into_iter().chain(["diverted", "slow_received"]).collect();
        cluster.outcomes()?.since(&before).only("a restart", &CALLS, &races)?;
        cluster.stop()
    })
}
