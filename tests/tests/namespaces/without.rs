//! Why the forwarder exists: the same load without it.

use anyhow::{Result, ensure};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Lab};
use tests::load::{Load, run_load};
use tests::sipp::{Padding, Place, Shape};

#[test]
fn without_the_forwarder_calls_over_three_edges_fail_v4() -> Result<()> {
    calls_fail(Family::V4)
}

#[test]
fn without_the_forwarder_calls_over_three_edges_fail_v6() -> Result<()> {
    calls_fail(Family::V6)
}

#[test]
fn without_the_forwarder_few_invites_of_3_kb_arrive() -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let request = Some(Padding { bytes: 2400, place: Place::AfterKeys });
        let load = Load { shape: Shape { request, ..Shape::default() }, ..Load::usual(Family::V4) };
        let (report, _) = run_load(lab, "sprayed", &load, &edges, None)?;
        eprintln!("without the forwarder: {report:?}");
        ensure!(report.calls == 600, "not all calls were made: {report:?}");
        ensure!(report.completed < 120, "calls complete although nothing brings their fragments together: {report:?}");
        Ok(())
    })
}

fn calls_fail(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let load = Load::usual(family);
        let (report, _) = run_load(lab, "sprayed", &load, &edges, None)?;
        ensure!(report.calls == 600, "not all calls were made: {report:?}");
        ensure!(
            report.completed < 180,
            "calls complete although nothing brings their packets to the owner: {report:?}"
        );
        ensure!(report.cancelled_clean < 120, "cancelled calls end cleanly without help: {report:?}");
        let strays_a_call = report.stray_replies / report.calls;
        ensure!((1..=5).contains(&strays_a_call), "2 to 3 stray replies a call were expected: {report:?}");
        ensure!(report.stray_acks > 0 && report.retransmissions > 1000, "the spray does not spray: {report:?}");
        Ok(())
    })
}
