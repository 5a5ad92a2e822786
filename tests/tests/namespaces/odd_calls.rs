//! Whole calls of devices that write SIP in ways of their own: what the fast path does not read, the daemon does.

use anyhow::{Result, ensure};
use tests::forwarder::Cluster;
use tests::forwarder::outcomes::{CALLS, HELD};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Lab};
use tests::load::{Load, ensure_one_edge_each, run_load};
use tests::sipp::{Form, Kind, Shape};

/// What moves beside the outcomes of plain calls.
const SLOW: [&str; 3] = ["punted_unread", "slow_received", "egress_punted"];

#[test]
fn calls_written_in_any_form_go_as_well_as_plain_ones_v4() -> Result<()> {
    odd_calls_go_well(Family::V4, &Form::ALL)
}

#[test]
fn calls_written_in_slow_forms_go_as_well_as_plain_ones_v6() -> Result<()> {
    odd_calls_go_well(Family::V6, &[Form::Folded, Form::ManyHeaders])
}

fn odd_calls_go_well(family: Family, forms: &[Form]) -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let mut cluster = Cluster::start(lab, family)?;
        for form in forms.iter().copied() {
            let before = cluster.outcomes()?;
            let shape = Shape { form: Some(form), ..Shape::default() };
            // Kamailio finds no way to cancel or to acknowledge an INVITE that it got with a CRLF in front.
            let kinds: &[Kind] =
                if form == Form::LeadingCrlf { &[Kind::Call] } else { &[Kind::Call, Kind::Cancel, Kind::Busy] };
            let load = Load { shape, ..Load::of(kinds, 30, 40, family) };
            let (report, _) = run_load(lab, &format!("{form:?}"), &load, &edges, Some(&cluster))?;
            let moves = cluster.outcomes()?.since(&before);
            let (punted, claimed) = (moves.sum("punted_unread"), moves.sum("egress_punted"));
            eprintln!("{form:?}: {punted} arrived for the daemon, {claimed} left past it; {report:?}");
            report.ensure_perfect(&load)?;
            let is_slow = matches!(form, Form::Folded | Form::ManyHeaders | Form::LeadingCrlf);
            let may: Vec<&str> = CALLS.into_iter().chain(HELD).chain(SLOW).collect();
            // What the daemon reads is its to send on.
            let must: &[&str] = if is_slow { &["punted_unread", "slow_local", "slow_forwarded"] } else { &CALLS };
            moves.only(&format!("{form:?}"), must, &may)?;
            ensure!(is_slow == (punted > report.calls), "{form:?} arrived {punted} times for the daemon: {report:?}");
        }
        ensure_one_edge_each(&edges)?;
        cluster.stop()
    })
}
