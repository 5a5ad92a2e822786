//! Without the forwarder.

use anyhow::{Result, ensure};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Lab, Spray};
use tests::load::{Load, run_load};

fn alone(family: Family) -> Result<()> {
    Lab::run(|lab| {
        lab.spray(&Spray::To(1))?;
        let edges = Kamailio::edges(lab, true)?;
        let report = run_load(lab, "alone", &Load::usual(family), &edges, None)?;
        eprintln!("{report:?}");
        ensure!(report.completed == 200, "{report:?}");
        Ok(())
    })
}

fn sprayed(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let report = run_load(lab, "sprayed", &Load::usual(family), &edges, None)?;
        eprintln!("{report:?}");
        ensure!(report.completed < 180, "{report:?}");
        Ok(())
    })
}

#[test]
fn one_edge_alone_v4() -> Result<()> {
    alone(Family::V4)
}
#[test]
fn one_edge_alone_v6() -> Result<()> {
    alone(Family::V6)
}
#[test]
fn sprayed_v4() -> Result<()> {
    sprayed(Family::V4)
}
#[test]
fn sprayed_v6() -> Result<()> {
    sprayed(Family::V6)
}
