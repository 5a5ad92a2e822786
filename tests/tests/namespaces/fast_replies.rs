//! Answers that come before the claim that leads them to their edge: they are held, and none is stray.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::forwarder::outcomes::{CALLS, HELD};
use tests::forwarder::{CLUSTER_PORT, Cluster};
use tests::kamailio::Kamailio;
use tests::lab::delay::Delay;
use tests::lab::{Family, Lab};
use tests::load::{Load, ensure_one_edge_answers, run_load};
use tests::sipp::Shape;

#[test]
fn answers_are_never_stray_with_peers_50_ms_away_v4() -> Result<()> {
    answers_are_never_stray(Family::V4, Duration::from_millis(50))
}

#[test]
fn answers_are_never_stray_with_peers_50_ms_away_v6() -> Result<()> {
    answers_are_never_stray(Family::V6, Duration::from_millis(50))
}

fn answers_are_never_stray(family: Family, by: Duration) -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let mut cluster = Cluster::start(lab, family)?;
        let _delay = Delay::start(lab.router(), CLUSTER_PORT, by)?;
        let before = cluster.outcomes()?;
        let load = Load { shape: Shape { at_once: true, ..Shape::default() }, ..Load::usual(family) };
        let (report, datagrams) = run_load(lab, "at-once", &load, &edges, Some(&cluster))?;
        let moves = cluster.outcomes()?.since(&before);
        let held = moves.sum("slow_held");
        eprintln!("{held} messages were held: {report:?}");
        report.ensure_perfect(&load)?;
        ensure_one_edge_answers(&datagrams, family)?;
        let races: Vec<&str> = HELD.into_iter().chain(["slow_received"]).collect();
        moves.only("answers at once", &CALLS, &races)?;
        ensure!(held > 0, "no answer outran its claim, so nothing was shown: {report:?}");
        cluster.stop()
    })
}
