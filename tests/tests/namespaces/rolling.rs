//! Daemons that are restarted one after the other, as an upgrade does.

use anyhow::{Result, ensure};
use tests::clock::now_us;
use tests::forwarder::outcomes::{CALLS, CLAIMS_LATE, DAEMON_AWAY, HELD, PASSED};
use tests::lab::{EDGES, Family};
use tests::sipp::Shape;

use crate::restarts::{RATE, under_load};

#[test]
fn daemons_restarted_one_after_the_other_lose_no_call() -> Result<()> {
    let (tallies, moves) = under_load(Family::V4, 12 * RATE, Shape::default(), |cluster| {
        let from = now_us()?;
        for edge in 1..=EDGES {
            let daemon = cluster.edge(edge)?;
            let status = daemon.process().stop()?;
            ensure!(status.code() == Some(0), "the daemon of edge {edge} ended with {status} after SIGTERM");
            daemon.start_again()?;
            cluster.wait_until_linked()?;
        }
        Ok([from, now_us()?])
    })?;
    eprintln!("restarted one after the other: {tallies:?}");
    ensure!(tallies.iter().all(|tally| tally.begun > 0), "the restarts were not in the middle: {tallies:?}");
    ensure!(tallies.iter().all(|tally| tally.lost() == 0), "calls were lost: {tallies:?}");
    // Each is away once, and a peer's daemon finishes what needs one.
    let must = [&CALLS[..], &DAEMON_AWAY, &["decap_punted_relayed"]].concat();
    moves.only("daemons restarted one after the other", &must, &[&HELD[..], &CLAIMS_LATE, &PASSED].concat())
}
