//! Real BGP: an edge's hook withdraws the route while calls are in flight, and announces it again; none is lost.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::forwarder::Cluster;
use tests::forwarder::outcomes::{CALLS, HELD};
use tests::kamailio::Kamailio;
use tests::lab::bgp::{self, Bgp, announcing};
use tests::lab::{Family, Lab};
use tests::poll::poll_until_true;
use tests::sipp::{Kind, Shape, Sipp};

/// Calls of each kind a second.
const RATE: u32 = 30;
/// More than the test lasts.
const MANY: u32 = 100_000;

#[test]
fn a_route_withdrawn_by_the_hook_while_calls_are_in_flight_loses_none_v4() -> Result<()> {
    withdrawal_loses_nothing(Family::V4)
}

#[test]
fn a_route_withdrawn_by_the_hook_while_calls_are_in_flight_loses_none_v6() -> Result<()> {
    withdrawal_loses_nothing(Family::V6)
}

fn withdrawal_loses_nothing(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let mut bgp = Bgp::start(lab, family)?;
        let hook = bgp::hook(lab)?;
        let mut cluster = Cluster::start_with(lab, family, |config| config.probed().hurried().hooked(&hook))?;
        let announce = |wanted: &[u8]| {
            poll_until_true(&format!("the route leads to the edges {wanted:?}"), Duration::from_secs(10), || {
                Ok(announcing(lab.router(), family)? == wanted)
            })
        };
        announce(&[1, 2, 3])?;
        let before = cluster.outcomes()?;
        let mut pairs = Vec::new();
        for kind in [Kind::Call, Kind::Cancel, Kind::Busy] {
            let callee = Sipp::callee(lab, kind, family, Shape::default())?;
            pairs.push((kind, callee, Sipp::caller(lab, kind, family, (MANY, RATE), Shape::default())?));
        }
        let go_on = |pairs: &[(Kind, Sipp, Sipp)], seconds: u32| {
            let begun = || pairs.first().map_or(0, |(_, _, caller)| caller.begun());
            let until = begun() + u64::from(seconds * RATE);
            poll_until_true("calls go on", Duration::from_secs(20), || Ok(begun() >= until))
        };
        go_on(&pairs, 3)?;
        let said = Instant::now();
        cluster.edge(2)?.tell(&["drain"])?;
        announce(&[1, 3])?;
        eprintln!("withdrawn {:?} after the drain", said.elapsed());
        go_on(&pairs, 3)?;
        // The daemon's own probes go on.
        let requests = |edges: &[Kamailio]| {
            let events = edges.get(1).map(Kamailio::events).unwrap_or_default();
            events.iter().filter(|event| event.kind == "request" && event.word("method") != "OPTIONS").count()
        };
        let own = requests(&edges);
        go_on(&pairs, 2)?;
        let later = requests(&edges);
        ensure!(own == later, "a drained edge without a route still gets requests: {own}, then {later}");
        cluster.edge(2)?.tell(&["undrain"])?;
        announce(&[1, 2, 3])?;
        go_on(&pairs, 3)?;
        for (kind, callee, caller) in &mut pairs {
            let calls = caller.stop()?;
            callee.stop()?;
            eprintln!("{kind:?}: {calls:?}");
            ensure!(calls.failed == 0 && calls.successful == calls.calls, "calls were lost: {kind:?} {calls:?}");
        }
        ensure!(requests(&edges) > later, "edge 2 gets nothing any more");
        for kind in ["stray_reply", "stray_ack", "stray_cancel"] {
            let strays: u64 = edges.iter().map(|edge| edge.count(kind)).sum();
            ensure!(strays == 0, "{strays} times {kind}");
        }
        // A request may land at edge 2 between its drain and the end of its route.
        let races: Vec<&str> = HELD.into_iter().chain(["diverted", "slow_received"]).collect();
        cluster.outcomes()?.since(&before).only("a withdrawal", &CALLS, &races)?;
        bgp.must_run()?;
        cluster.stop()
    })
}
