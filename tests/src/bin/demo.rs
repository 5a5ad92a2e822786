//! The demo: the same calls over three edges, first without and then with the forwarder, and what became of them.

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use tests::capture::Capture;
use tests::claims;
use tests::forwarder::{self, Cluster};
use tests::kamailio::Kamailio;
use tests::lab::{self, EDGES, Family, Host, Lab};
use tests::load::{Load, Report, run_load};

/// How the demo is called.
const USAGE: &str = "usage: demo [--calls N] [--rate N] [--ipv6]";

fn main() -> ExitCode {
    let load = match load_of(std::env::args().skip(1)) {
        Ok(load) => load,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "demo: {error:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match lab::remove_all_on_signals(|| say("stopping; removing everything that was made")).and_then(|()| demo(&load)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn load_of(mut arguments: impl Iterator<Item = String>) -> Result<Load> {
    let mut load = Load::usual(Family::V4);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u32> {
            let value = arguments.next().with_context(|| format!("{argument} needs a number"))?;
            value.parse().ok().filter(|number| (1..=5000).contains(number)).context("give a number from 1 to 5000")
        };
        match argument.as_str() {
            "--calls" => load.count = number()?,
            "--rate" => load.rate = number()?,
            "--ipv6" => load.family = Family::V6,
            _ => bail!("what is {argument}?"),
        }
    }
    Ok(load)
}

/// Progress, one line each.
fn say(what: impl Display) {
    // Whoever closed the output does not want to know.
    let _ = writeln!(std::io::stdout(), "{what}");
}

fn demo(load: &Load) -> Result<()> {
    forwarder::binary()?;
    let Load { count, rate, family, .. } = load;
    say(format_args!("{EDGES} edges share {}; the router sends each packet to a random one", family.vip()));
    say(format_args!("load: {count} calls, {count} cancelled, {count} rejected, each {rate} a second\n"));
    let without = without(load)?;
    let (with, claims) = with(load)?;
    say(format_args!("\n{}", table(load, &without, &with, &claims)));
    Ok(())
}

fn without(load: &Load) -> Result<Report> {
    say("without: making namespaces, starting a Kamailio on each edge");
    let lab = Lab::new()?;
    let edges = Kamailio::edges(&lab, true)?;
    say("without: calling; calls that fail take their time, up to a minute");
    let (report, _) = run_load(&lab, "without", load, &edges, None)?;
    Ok(report)
}

fn with(load: &Load) -> Result<(Report, Vec<u64>)> {
    say("with:    making namespaces, starting a Kamailio on each edge");
    let lab = Lab::new()?;
    let edges = Kamailio::edges(&lab, true)?;
    say("with:    making certificates, starting a forwarder on each edge");
    let mut cluster = Cluster::start(&lab, load.family)?;
    say("with:    every edge is linked with every other; calling");
    let mut capture = Capture::cable(&lab, Host::Client, "first", "udp")?;
    let (report, _) = run_load(&lab, "with", load, &edges, Some(&cluster))?;
    capture.stop()?;
    say("with:    measuring the time from each first packet to its claim");
    let claims = claims::times(&cluster, &capture)?;
    cluster.stop()?;
    Ok((report, claims))
}

fn table(load: &Load, without: &Report, with: &Report, claims: &[u64]) -> String {
    let of = |clean: u64| format!("{clean} of {}", load.count);
    let rows = [
        (String::new(), "without".to_owned(), "with".to_owned()),
        ("calls completed".to_owned(), of(without.completed), of(with.completed)),
        ("calls cancelled cleanly".to_owned(), of(without.cancelled_clean), of(with.cancelled_clean)),
        ("calls rejected cleanly".to_owned(), of(without.rejected_clean), of(with.rejected_clean)),
        number("stray replies", without.stray_replies, with.stray_replies),
        number("stray ACKs and CANCELs", without.stray(), with.stray()),
        number("retransmissions", without.retransmissions, with.retransmissions),
        ("packets forwarded".to_owned(), "-".to_owned(), with.forwarded.to_string()),
        ("first packet to claim, median".to_owned(), "-".to_owned(), millis(claims, 50)),
        ("first packet to claim, p99".to_owned(), "-".to_owned(), millis(claims, 99)),
    ];
    let lines = rows.iter().map(|(name, without, with)| format!("{name:<32}{without:>14}{with:>14}\n"));
    let note = format!("\nThe last two are of {} transactions, until the claim stands on both peers.", claims.len());
    lines.collect::<String>() + &note
}

fn number(name: &str, without: u64, with: u64) -> (String, String, String) {
    (name.to_owned(), without.to_string(), with.to_string())
}

/// A percentile of sorted microseconds, in milliseconds.
fn millis(sorted: &[u64], percent: usize) -> String {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    let Some(micros) = sorted.get(place) else { return "-".to_owned() };
    format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
}
