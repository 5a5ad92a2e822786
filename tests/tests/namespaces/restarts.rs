//! Daemons that end and start under load: what the kernel can place, it places.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tests::calls::{Tally, tally};
use tests::capture::Capture;
use tests::clock::now_us;
use tests::forwarder::outcomes::{CALLS, CLAIMS_LATE, DAEMON_AWAY, HELD, PASSED};
use tests::forwarder::{Cluster, Moves};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Lab};
use tests::poll::poll_until_true;
use tests::sipp::{Kind, Shape, Sipp};

/// Calls a second.
pub(crate) const RATE: u32 = 40;
/// Until the last call has ended, well or not.
const TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn all_daemons_killed_for_ten_seconds_lose_no_call_before_or_after_v4() -> Result<()> {
    ended_together(Family::V4, 10, libc::SIGKILL)
}

#[test]
fn all_daemons_stopped_for_three_seconds_lose_no_call_before_or_after_v6() -> Result<()> {
    ended_together(Family::V6, 3, libc::SIGTERM)
}

fn ended_together(family: Family, dead_s: u32, signal: i32) -> Result<()> {
    // Ten seconds of calls with daemons beside those without.
    under_load(family, (10 + dead_s) * RATE, Shape::default(), |cluster| {
        let from = now_us()?;
        // All hear of it before the first has ended.
        cluster.daemons.iter_mut().for_each(|daemon| daemon.process().signal(signal));
        cluster.daemons.iter_mut().try_for_each(|daemon| daemon.process().stop_with(signal).map(drop))?;
        let killed = Instant::now();
        let dead = Duration::from_secs(u64::from(dead_s));
        poll_until_true("the daemons have been dead for a while", dead * 2, || Ok(killed.elapsed() >= dead))?;
        cluster.daemons.iter_mut().try_for_each(tests::forwarder::Daemon::start_again)?;
        cluster.wait_until_linked()?;
        Ok([from, now_us()?])
    })
    .and_then(|(tallies, moves)| {
        let [before, meanwhile, after] = tallies;
        eprint!("daemons ended by signal {signal} for {dead_s} s: ");
        eprintln!("before {before:?}, meanwhile {meanwhile:?}, after {after:?}");
        let in_the_middle = before.begun > 100 && meanwhile.begun > u64::from(dead_s * 30) && after.begun > 100;
        ensure!(in_the_middle, "the kill was not in the middle");
        ensure!(before.lost() == 0, "{} calls that began before the kill were lost", before.lost());
        ensure!(after.lost() == 0, "{} calls that began after the restart were lost", after.lost());
        // Who hears last that all others leave has nobody left to send to. What is relayed finds no daemon at the peer
        // either, or one that starts.
        let (sent, may) =
            ([&DAEMON_AWAY[..], &["decap_relayed"]].concat(), [&HELD[..], &CLAIMS_LATE, &PASSED].concat());
        let may = [&may[..], &["decap_punted_relayed"]].concat();
        moves.only("daemons that ended together", &CALLS, &[&may[..], &sent].concat())?;
        moves.only_together("daemons that ended together", &[&CALLS[..], &sent].concat(), &may)
    })
}

#[test]
fn a_daemon_that_is_killed_and_back_after_a_second_costs_no_call_v4() -> Result<()> {
    one_ends(Family::V4, 1, libc::SIGKILL)
}

#[test]
fn a_daemon_that_is_killed_and_back_after_fifteen_seconds_costs_no_call_v6() -> Result<()> {
    one_ends(Family::V6, 15, libc::SIGKILL)
}

#[test]
fn a_daemon_that_is_stopped_for_twelve_seconds_costs_no_call_v4() -> Result<()> {
    one_ends(Family::V4, 12, libc::SIGTERM)
}

/// The proxy lives, and the programs beside it know its claims: the peers ask them.
fn one_ends(family: Family, dead_s: u32, signal: i32) -> Result<()> {
    let count = (10 + dead_s) * RATE;
    let (tallies, moves) = under_load(family, count, Shape::default(), |cluster| {
        let from = now_us()?;
        let daemon = cluster.daemons.first_mut().context("find the first daemon")?;
        daemon.process().stop_with(signal)?;
        let ended = Instant::now();
        let dead = Duration::from_secs(u64::from(dead_s));
        poll_until_true("a daemon has been dead for a while", dead * 2, || Ok(ended.elapsed() >= dead))?;
        daemon.start_again()?;
        cluster.wait_until_linked()?;
        Ok([from, now_us()?])
    })?;
    eprintln!("one daemon ended by signal {signal} for {dead_s} s: {tallies:?}");
    let lost: Vec<_> = tallies.into_iter().map(Tally::lost).collect();
    ensure!(lost == [0, 0, 0], "calls lost that began before, meanwhile and after: {lost:?}");
    // What only a daemon can finish is punted at a peer, but for the moment in which the one that starts takes over.
    let relayed = ["decap_relayed", "decap_punted_relayed", "unknown_response", "unknown_branch", "unknown_ack"];
    let may = [&HELD[..], &DAEMON_AWAY, &CLAIMS_LATE, &relayed].concat();
    moves.only_together("a daemon that ended beside others", &CALLS, &may)
}

#[test]
fn a_daemon_that_is_told_to_stop_while_it_starts_ends_in_order() -> Result<()> {
    Lab::run(|lab| {
        let mut cluster = Cluster::start_some(lab, Family::V4, [1], |config| config)?;
        let daemon = cluster.edge(1)?;
        daemon.wait_for_state("up")?;
        daemon.process().stop_with(libc::SIGKILL)?;
        // The socket comes before the programs are loaded, which takes the longest.
        std::fs::remove_file(daemon.control()).context("remove the socket of the daemon before")?;
        daemon.start_again()?;
        let control = daemon.control().to_owned();
        poll_until_true("the daemon starts", TIMEOUT, || Ok(control.exists()))?;
        let status = daemon.process().stop()?;
        ensure!(status.code() == Some(0), "the daemon ended with {status} after SIGTERM");
        Ok(())
    })
}

/// Runs `count` calls, does something to the daemons in the middle, and says what became of the calls that began before
/// it, meanwhile and after, and which outcomes moved.
pub(crate) fn under_load(
    family: Family,
    count: u32,
    shape: Shape,
    disturb: impl FnOnce(&mut Cluster) -> Result<[u64; 2]>,
) -> Result<([Tally; 3], Moves)> {
    let mut result = None;
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let mut cluster = Cluster::start(lab, family)?;
        let outcomes = cluster.outcomes()?;
        let mut capture = Capture::router(lab, "restart", "udp and not port 7470")?;
        let mut callee = Sipp::callee(lab, Kind::Call, family, shape)?;
        let mut caller = Sipp::caller(lab, Kind::Call, family, (count, RATE), shape)?;
        let first = u64::from(RATE) * 4;
        poll_until_true("the first calls have begun", Duration::from_secs(20), || Ok(caller.begun() >= first))?;
        let borders = disturb(&mut cluster)?;
        let calls = caller.finish(TIMEOUT)?;
        callee.stop()?;
        capture.stop()?;
        let strays: u64 = edges.iter().map(|edge| edge.count("stray_reply")).sum();
        eprintln!("{strays} stray replies; the caller counts {calls:?}");
        let tallies = tally(&capture.datagrams()?, family, borders);
        let [before, meanwhile, after] = tallies.as_slice() else { bail!("{} tallies", tallies.len()) };
        ensure!(before.begun + meanwhile.begun + after.begun == u64::from(count), "not all calls are in the capture");
        let moves = cluster.outcomes()?.since(&outcomes);
        eprintln!("{moves:?}");
        result = Some(([*before, *meanwhile, *after], moves));
        cluster.stop()
    })?;
    result.context("find what became of the calls")
}
