//! One edge alone, without the forwarder: what every other test is measured against.

use anyhow::{Result, ensure};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Lab, Spray};
use tests::load::{Load, ensure_one_edge_answers, run_load};
use tests::sipp::{Kind, Sipp};

#[test]
fn one_edge_alone_does_every_kind_of_call() -> Result<()> {
    Lab::run(|lab| {
        lab.spray(&Spray::To(2))?;
        let edges = Kamailio::edges(lab, false)?;
        let core = Kamailio::core(lab)?;
        let kinds = [Kind::Call, Kind::Cancel, Kind::Busy, Kind::Late, Kind::Silent, Kind::Twice];
        let load = Load::of(&kinds, 20, 10, Family::V6);
        let (report, datagrams) = run_load(lab, "alone", &load, &edges, None)?;
        report.ensure_perfect(&load)?;
        ensure_one_edge_answers(&datagrams, load.family)?;
        // MESSAGE and silent INVITE are sent twice or thrice, by the caller and by the proxy.
        ensure!(report.retransmissions >= 4 * 20, "late answers cause no retransmissions: {report:?}");
        ensure!(core.count("stray_reply") == 0, "the core had stray replies");
        Ok(())
    })
}

#[test]
fn an_edge_alone_gets_the_answer_to_its_own_options() -> Result<()> {
    for family in Family::BOTH {
        Lab::run(|lab| {
            lab.spray(&Spray::To(1))?;
            let edge = Kamailio::edge(lab, 1, true)?;
            let _carrier = Sipp::options_carrier(lab, family)?;
            edge.send_options(family, "options@alone")?;
            ensure!(edge.wait_for_reply("options@alone")?, "the answer is stray");
            Ok(())
        })?;
    }
    Ok(())
}
