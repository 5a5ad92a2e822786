//! Why the forwarder exists: the same load without it.

use anyhow::{Result, ensure};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Lab};
use tests::load::{Load, run_load};
use tests::sipp::{Padding, Place, Shape};

#[test]
fn without_the_forwarder_calls_over_three_edges_fail_v4() -> Result<()> {
    calls_fail(Family::V4, 200)
}

#[test]
fn without_the_forwarder_calls_over_three_edges_fail_v6() -> Result<()> {
    calls_fail(Family::V6, 80)
}

#[test]
fn without_the_forwarder_few_invites_of_3_kb_arrive() -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let request = Some(Padding { bytes: 2400, place: Place::AfterKeys });
        let load = Load { count: 60, shape: Shape { request, ..Shape::default() }, ..Load::usual(Family::V4) };
        let (report, _) = run_load(lab, "sprayed", &load, &edges, None)?;
        eprintln!("without the forwarder: {report:?}");
        ensure!(report.calls == 180, "not all calls were made: {report:?}");
        ensure!(
            report.completed < 45 && report.cancelled_clean < 30,
            "calls complete although nothing brings their fragments together: {report:?}"
        );
        Ok(())
    })
}

/// `count` calls of each kind.
fn calls_fail(family: Family, count: u32) -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let load = Load { count, ..Load::usual(family) };
        let count = u64::from(count);
        let (report, _) = run_load(lab, "sprayed", &load, &edges, None)?;
        ensure!(report.calls == 3 * count, "not all calls were made: {report:?}");
        ensure!(
            report.completed * 10 < count * 9,
            "calls complete although nothing brings their packets to the owner: {report:?}"
        );
        ensure!(report.cancelled_clean * 10 < count * 6, "cancelled calls end cleanly without help: {report:?}");
        let strays_a_call = report.stray_replies / report.calls;
        ensure!((1..=5).contains(&strays_a_call), "2 to 3 stray replies a call were expected: {report:?}");
        ensure!(report.stray_acks > 0 && report.retransmissions > 5 * count, "the spray does not spray: {report:?}");
        Ok(())
    })
}
