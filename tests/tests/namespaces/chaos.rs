//! A minute of chaos over five edges: no call is lost without an excuse. `cargo xtask chaos` goes on for longer.

use anyhow::{Result, ensure};
use tests::chaos::report::counted;
use tests::chaos::{EDGES, soak};
use tests::lab::Lab;

/// Faults of every kind.
const SECONDS: u64 = 60;
/// The seed of the schedule.
const SEED: u64 = 11;
/// Faults by which calls are lost today although their proxies live: daemons that are away, cut off from each other or
/// with a wrong clock.
const OPEN: [&str; 6] = ["kill-daemon", "stop-daemon", "upgrade", "skew", "stall", "cut-links"];
/// Most calls lost by those, in a hundred: many times what ten minutes have shown.
const OPEN_PERCENT: usize = 1;

#[test]
fn a_minute_of_chaos_loses_no_call_without_an_excuse() -> Result<()> {
    Lab::alone_with_edges(EDGES)?.test(|lab| {
        let report = soak(lab, SEED, SECONDS, None, |_| {})?;
        let is_open = |label: &str| OPEN.iter().any(|fault| label.starts_with(fault));
        let (open, lost): (Vec<&str>, Vec<&str>) =
            report.inexcusable().map(|(_, label)| label).partition(|label| is_open(label));
        let (calls, named) = (report.calls, counted(lost.iter().copied()));
        ensure!(lost.is_empty(), "of {calls} calls {} were lost without an excuse: {named}\n{report}", lost.len());
        let named = counted(open.iter().copied());
        ensure!(open.len() * 100 <= calls * OPEN_PERCENT, "of {calls} calls too many were lost: {named}\n{report}");
        Ok(())
    })
}
