//! A flood of replies that nobody knows, at one edge and its proxy: calls go on, and the daemon stays small.
//!
//! What the daemon has no time for passes to the flooded edge's proxy. On a machine that is busy with other things that
//! proxy drowns, as it does without the forwarder. Then calls are lost that this proxy had, and no others.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tests::calls::calls;
use tests::capture::Capture;
use tests::flood::Flood;
use tests::forwarder::outcomes::{CALLS, CLAIMS_LATE, DAEMON_AWAY, HELD};
use tests::forwarder::{Cluster, Moves};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Host, Lab, SIP, Spray};
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
/// Floods, where the proxy drowns with the forwarder and then not without it: the machine may have been busy first.
const TRIES: u32 = 3;
/// Until the last call has ended, well or not.
const TIMEOUT: Duration = Duration::from_secs(60);

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
    for _ in 0..TRIES {
        let with = with_forwarder(family, count)?;
        if with.lost.is_empty() {
            return Ok(());
        }
        // On a machine that is as busy with other things, the proxy drowns by itself.
        let without = without_forwarder(family, count / 4)?;
        if without.dropped > 0 {
            return Ok(());
        }
    }
    bail!("the proxy drowns with the forwarder, and not without, {TRIES} times")
}

/// What a proxy makes of the flood when it is alone with it and all calls.
fn without_forwarder(family: Family, count: u32) -> Result<Flooded> {
    let mut done = None;
    Lab::run_alone(|lab| {
        let _edge = Kamailio::edge(lab, 1, true)?;
        lab.spray(&Spray::To(1))?;
        done = Some(flooded(lab, "without", family, count)?);
        Ok(())
    })?;
    done.context("flood a proxy")
}

fn with_forwarder(family: Family, count: u32) -> Result<Flooded> {
    let mut done = None;
    Lab::run_alone(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let mut cluster = Cluster::start(lab, family)?;
        lab.spray(&Spray::FromPort { port: PORT, edge: 1 })?;
        let before = cluster.outcomes()?;
        let memory = cluster.edge(1)?.peak_memory_kib()?;
        let with = flooded(lab, "with", family, count)?;
        poll_until_true("edge 1 has let everything go", Duration::from_secs(5), || {
            let now = cluster.edge(1)?.outcomes()?;
            Ok(now.of("slow_held") <= now.of("slow_released") + now.of("slow_forwarded") + now.of("slow_local"))
        })?;
        let peak = cluster.edge(1)?.peak_memory_kib()?;
        eprintln!("flood: peak memory {peak} KiB, before {memory} KiB");
        let moves = cluster.outcomes()?.since(&before);
        eprintln!("flood: {moves:?}");

        let drowns = with.dropped > 0;
        let strays: u64 = edges.iter().map(|edge| edge.count("stray_ack") + edge.count("stray_cancel")).sum();
        ensure!(strays == 0 || drowns, "{strays} ACKs and CANCELs were stray");
        ensure!(with.lost.is_empty() || drowns, "calls were lost, and no proxy had drowned: {with:?}");
        let flooded = edges.first().context("find the proxy of edge 1")?.events();
        let had = |call: &&String| flooded.iter().any(|event| event.word("callid") == **call);
        let others: Vec<_> = with.lost.iter().filter(|call| !had(call)).collect();
        ensure!(others.is_empty(), "calls were lost that the drowned proxy never had: {others:?}");
        ensure!(with.sent > u64::from(RATE), "the flood was a trickle of {}", with.sent);
        ensure!(peak < memory + GROWTH_KIB, "the daemon grew from {memory} to {peak} KiB");
        ensure_only_moved(&moves)?;
        done = Some(with);
        cluster.stop()
    })?;
    done.context("flood an edge")
}

/// What a flood did.
#[derive(Debug)]
struct Flooded {
    /// Replies sent.
    sent: u64,
    /// Datagrams that the sockets of edge 1's proxy had no room for.
    dropped: u64,
    /// Call-IDs of the calls that did not go to their end.
    lost: Vec<String>,
}

/// Floods the shared address while calls go on.
fn flooded(lab: &Lab, name: &str, family: Family, count: u32) -> Result<Flooded> {
    let proxy = || lab.dropped(Host::Edge(1), Some(SIP));
    let elsewhere = || -> Result<u64> {
        let hosts = [Host::Client, Host::Carrier, Host::Edge(2), Host::Edge(3)];
        hosts.into_iter().map(|host| lab.dropped(host, None)).sum()
    };
    let before = (proxy()?, elsewhere()?);
    let client = Host::Client.address(family);
    let mut capture = Capture::router(lab, name, &format!("udp and host {client}"))?;
    let mut callee = Sipp::callee(lab, Kind::Call, family, Shape::default())?;
    let flood = Flood::start(lab, family, PORT, RATE)?;
    let mut caller = Sipp::caller(lab, Kind::Call, family, (count, CALL_RATE), Shape::default())?;
    caller.finish(TIMEOUT)?;
    let (sent, took) = flood.stop();
    let after = (proxy()?, elsewhere()?);
    callee.stop()?;
    capture.stop()?;
    ensure!(after.1 == before.1, "sockets of others than the flooded proxy dropped {}", after.1 - before.1);
    let calls = calls(&capture.datagrams()?, family);
    ensure!(calls.len() == usize::try_from(count)?, "{} calls are in the capture, not {count}", calls.len());
    let lost: Vec<String> = calls.iter().filter(|call| !call.completed).map(|call| call.id.clone()).collect();
    let (rate, dropped) = (sent * 1000 / u64::try_from(took.as_millis())?.max(1), after.0 - before.0);
    eprintln!("flood {name} the forwarder: {rate} replies a second, {dropped} of {sent} dropped by the proxy's socket");
    eprintln!("flood {name} the forwarder: {} of {count} calls lost", lost.len());
    Ok(Flooded { sent, dropped, lost })
}

/// The flood and the calls beside it, and nothing else. Claims of an edge in a flood may come late, and on a busy
/// machine its daemon may stall for longer than its lease.
fn ensure_only_moved(moves: &Moves) -> Result<()> {
    let flood = ["punted_unknown_response", "punt_overflow", "slow_held", "slow_released"];
    let stalls = ["decap_relayed", "decap_punted_relayed", "slow_hold_overflow"];
    let may = [&HELD[..], &CLAIMS_LATE, &DAEMON_AWAY, &stalls].concat();
    moves.at(1)?.only("a flood, where it lands", &[&CALLS[..], &flood].concat(), &may)?;
    [2, 3].into_iter().try_for_each(|edge| moves.at(edge)?.only(&format!("a flood, at edge {edge}"), &CALLS, &may))
}
