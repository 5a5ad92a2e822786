//! A flood of replies that nobody knows, at one edge and its proxy: calls go on, and the daemon stays small.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::flood::Flood;
use tests::forwarder::Cluster;
use tests::forwarder::outcomes::{CALLS, ensure_only_moved};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Lab, Spray};
use tests::poll::poll_until_true;
use tests::sipp::{Kind, Shape, Sipp};

/// Replies a second.
const RATE: u32 = 50_000;
/// The flood's port; no caller and no callee has it.
const PORT: u16 = 9999;
/// Calls a second.
const CALL_RATE: u32 = 20;
/// Most memory of a daemon, in KiB, above what it has before the flood.
const GROWTH_KIB: u64 = 32 * 1024;

/// Outcomes of the flood itself and of calls beside it, beside [`CALLS`]. The claims of an edge in a flood may come
/// after the answers to what it has sent.
const FLOODED: [&str; 10] = [
    "egress_foreign",
    "punted_unknown_response",
    "punted_unknown_cancel",
    "punt_overflow",
    "slow_held",
    "slow_hold_overflow",
    "slow_released",
    "slow_forwarded",
    "slow_received",
    "slow_local",
];

#[test]
fn a_flood_of_unknown_replies_leaves_calls_and_memory_alone_v4() -> Result<()> {
    flood_harms_nothing(Family::V4, 200)
}

#[test]
fn a_flood_of_unknown_replies_leaves_calls_and_memory_alone_v6() -> Result<()> {
    flood_harms_nothing(Family::V6, 80)
}

/// The flood lasts as long as so many calls.
fn flood_harms_nothing(family: Family, count: u32) -> Result<()> {
    Lab::run_alone(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let mut cluster = Cluster::start(lab, family)?;
        lab.spray(&Spray::FromPort { port: PORT, edge: 1 })?;
        let before = cluster.outcomes()?;
        let memory = cluster.edge(1)?.peak_memory_kib()?;
        let mut callee = Sipp::callee(lab, Kind::Call, family, Shape::default())?;
        let flood = Flood::start(lab, family, PORT, RATE)?;
        let mut caller = Sipp::caller(lab, Kind::Call, family, (count, CALL_RATE), Shape::default())?;
        let calls = caller.finish(Duration::from_secs(60))?;
        let (sent, took) = flood.stop();
        let answered = callee.stop()?;
        poll_until_true("edge 1 has let everything go", Duration::from_secs(5), || {
            let now = cluster.edge(1)?.outcomes()?;
            Ok(now.of("slow_held") <= now.of("slow_released") + now.of("slow_forwarded") + now.of("slow_local"))
        })?;
        let peak = cluster.edge(1)?.peak_memory_kib()?;
        let after = cluster.outcomes()?;
        eprintln!(
            "flood: {sent} replies in {took:?}, {} a second",
            sent * 1000 / u64::try_from(took.as_millis())?.max(1)
        );
        eprintln!("flood: peak memory {peak} KiB, before {memory} KiB; calls {calls:?}, answered {answered:?}");
        if let (Some(before), Some(after)) = (before.first(), after.first()) {
            eprintln!("flood: at edge 1 moved {:?}", after.moved(before));
        }
        let strays: u64 = edges.iter().map(|edge| edge.count("stray_ack") + edge.count("stray_cancel")).sum();
        ensure!(strays == 0, "{strays} ACKs and CANCELs were stray");
        ensure!(calls.successful == u64::from(count), "calls failed: {calls:?}");
        ensure!(sent > u64::from(RATE), "the flood was a trickle of {sent}");
        ensure!(peak < memory + GROWTH_KIB, "the daemon grew from {memory} to {peak} KiB");
        let allowed: Vec<&str> = CALLS.into_iter().chain(FLOODED).collect();
        ensure_only_moved("a flood", &before, &after, &allowed)?;
        cluster.stop()
    })
}
