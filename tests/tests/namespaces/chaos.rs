//! A minute of chaos over five edges: no call is lost without an excuse. `cargo xtask chaos` goes on for longer.

use anyhow::{Result, ensure};
use tests::chaos::report::counted;
use tests::chaos::{EDGES, soak};
use tests::lab::Lab;

/// Faults of every kind.
const SECONDS: u64 = 60;
/// The seed of the schedule.
const SEED: u64 = 11;

#[test]
fn a_minute_of_chaos_loses_no_call_without_an_excuse() -> Result<()> {
    Lab::alone_with_edges(EDGES)?.test(|lab| {
        let report = soak(lab, SEED, SECONDS, None, |_| {})?;
        let (calls, lost) = (report.calls, report.inexcusable().count());
        let named = counted(report.inexcusable().map(|(_, label)| label));
        ensure!(lost == 0, "of {calls} calls {lost} were lost without an excuse: {named}\n{report}");
        Ok(())
    })
}
