//! Daemons that stall and go on, or that nobody hears for a while, as on a virtual machine that is moved: shorter
//! than a link lives, and longer.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tests::clock::now_us;
use tests::forwarder::outcomes::{CALLS, CLAIMS_LATE, DAEMON_AWAY, HELD};
use tests::forwarder::{Cluster, Moves};
use tests::lab::{Family, Lab, Spray};
use tests::poll::poll_until_true;
use tests::sipp::Shape;
use tests::traffic::{Endpoint, Sip, vip};

use crate::restarts::{RATE, under_load};

/// Less than the second after which a silent link ends, with the pause between two keep-alives.
const SHORT: Duration = Duration::from_millis(600);
/// Longer than that, and less than the daemon's lease.
const MEDIUM: Duration = Duration::from_millis(1200);
/// Longer than that, and than the daemon's lease.
const LONG: Duration = Duration::from_secs(4);
/// Tries to be heard again before oneself misses the others.
const MUTED: usize = 5;
/// From then on, after a daemon has come to a stand, every new call completes; in microseconds.
const SOON_US: u64 = 1_500_000;
/// What a daemon logs of a peer.
const DOWN: &str = "counts as down";
/// What comes late is sent again, as UDP asks: sipp's callee is told to bear that.
const SHAPE: Shape = Shape { request: None, answer: None, at_once: false, absorbs: true, form: None };

#[test]
fn a_daemon_that_stalls_for_less_than_its_links_live_loses_no_call() -> Result<()> {
    let (tallies, moves) = under_load(Family::V4, 12 * RATE, SHAPE, |cluster| {
        let from = now_us()?;
        for _ in 0..3 {
            stall(cluster, SHORT)?;
            wait("it has gone on for a while", SHORT)?;
        }
        cluster.wait_until_linked()?;
        Ok([from, now_us()?])
    })?;
    eprintln!("before, meanwhile and after: {tallies:?}");
    ensure!(tallies.iter().all(|tally| tally.begun > 80), "the pauses were not in the middle");
    ensure!(tallies.iter().all(|tally| tally.lost() == 0), "calls were lost: {tallies:?}");
    moves.only("short pauses", &CALLS, &[&HELD[..], &CLAIMS_LATE].concat())
}

#[test]
fn a_daemon_that_stalls_for_longer_costs_what_a_dead_one_costs_and_comes_back_by_itself() -> Result<()> {
    let ([before, meanwhile, after], moves) = under_load(Family::V6, 14 * RATE, SHAPE, |cluster| {
        let from = now_us()?;
        stall(cluster, LONG)?;
        cluster.wait_until_linked()?;
        wait("it has gone on for a while", SHORT)?;
        ensure_nobody_was_down(cluster)?;
        Ok([from, from + SOON_US])
    })?;
    eprintln!("before {before:?}, in the first moment {meanwhile:?}, from then on {after:?}");
    ensure!(before.begun > 100 && meanwhile.begun > 40 && after.begun > 200, "the pause was not in the middle");
    ensure!(before.lost() == 0, "{} calls that began before the pause were lost", before.lost());
    ensure!(after.lost() == 0, "{} calls that began long after it had begun were lost", after.lost());
    ensure_peers_helped("a long pause", &moves)
}

#[test]
fn a_daemon_that_stalls_again_and_again_takes_nobody_for_dead() -> Result<()> {
    let ([before, _, after], moves) = under_load(Family::V4, 16 * RATE, SHAPE, |cluster| {
        let from = now_us()?;
        for pause in [MEDIUM, LONG / 2, MEDIUM, LONG / 2] {
            stall(cluster, pause)?;
            // Hardly ever long enough to find all peers again.
            wait("it has gone on for a moment", SHORT / 12)?;
        }
        cluster.wait_until_linked()?;
        wait("it has gone on for a while", SHORT)?;
        ensure_nobody_was_down(cluster)?;
        Ok([from, now_us()?])
    })?;
    eprintln!("before {before:?}, after {after:?}");
    ensure!(before.begun > 100 && after.begun > 80, "the pauses were not in the middle");
    ensure!(before.lost() + after.lost() == 0, "calls were lost");
    ensure_peers_helped("one pause after the other", &moves)
}

#[test]
fn a_daemon_that_nobody_has_heard_for_a_second_takes_nobody_for_dead() -> Result<()> {
    let family = Family::V4;
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, family)?;
        let client = Endpoint::client(lab, family)?;
        let (proxy, owner) = (Endpoint::proxy(lab, 2, family)?, Endpoint::proxy(lab, 1, family)?);
        let call = Sip { call_id: "muted@lab", cseq: 1, method: "INVITE", branch: "z9hG4bKm", via: client.address()? };
        owner.send(&call.response("180 Ringing"), client.address()?)?;
        cluster.wait_for_owner(call.call_id, call.cseq, None, 1)?;
        lab.spray(&Spray::To(2))?;
        for _ in 0..MUTED {
            let known = cluster.edge(2)?.log().len();
            lab.router().mute_links(2)?;
            cluster.edge(1)?.wait_for_peers(1)?;
            cluster.edge(3)?.wait_for_peers(1)?;
            lab.router().mend_links()?;
            poll_until_true("the others have edge 2 again", LONG, || {
                for _ in 0..20 {
                    client.send(&call.request(), vip(family))?;
                }
                Ok(cluster.edge(1)?.peers_up()? == 2 && cluster.edge(3)?.peers_up()? == 2)
            })?;
            let log = cluster.edge(2)?.log();
            let news = log.get(known..).unwrap_or_default();
            if !news.contains("timed out") {
                // The others have said that they have forgotten its links, or have called before they could.
                ensure!(proxy.is_empty()?, "what edge 1 owns went to the proxy of edge 2");
                ensure!(!news.contains(DOWN), "for a moment another edge counted as down");
                return cluster.stop();
            }
            // The machine was so slow that edge 2 was the first to miss the others. Then they were down for it.
            while !proxy.is_empty()? {
                proxy.receive()?;
            }
        }
        bail!("edge 2 was the first to miss the others each time")
    })
}

/// What needed a daemon did not wait for the one of edge 2, which stalled: it went to the others.
fn ensure_peers_helped(what: &str, moves: &Moves) -> Result<()> {
    let may = [&HELD[..], &CLAIMS_LATE].concat();
    moves.at(2)?.only(&format!("{what}, where it is"), &[&CALLS[..], &DAEMON_AWAY].concat(), &may)?;
    let must = [&CALLS[..], &["decap_punted_relayed"]].concat();
    [1, 3].into_iter().try_for_each(|edge| moves.at(edge)?.only(&format!("{what}, at edge {edge}"), &must, &may))
}

/// By the log of the daemon of edge 2.
fn ensure_nobody_was_down(cluster: &mut Cluster) -> Result<()> {
    let is_down = cluster.edge(2)?.log().contains(DOWN);
    ensure!(!is_down, "for a moment another edge counted as down");
    Ok(())
}

/// Stops the daemon of edge 2 as the kernel sees it, and lets it go on.
fn stall(cluster: &mut Cluster, pause: Duration) -> Result<()> {
    let daemon = cluster.edge(2)?.process();
    daemon.signal(libc::SIGSTOP);
    wait("the daemon has stalled for a while", pause)?;
    daemon.signal(libc::SIGCONT);
    Ok(())
}

fn wait(what: &str, pause: Duration) -> Result<()> {
    let start = Instant::now();
    poll_until_true(what, pause * 2, || Ok(start.elapsed() >= pause))
}
