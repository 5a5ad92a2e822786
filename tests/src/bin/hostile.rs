//! A hostile peer: a node with a good certificate says whatever it likes to three honest ones, beside calls.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use tests::forwarder;
use tests::hostile::{Act, Attack, EDGES, Report, attack};
use tests::lab::{self, Family, Lab};

const USAGE: &str = "usage: hostile [--seconds N] [--after N] [--seed N] [--protocol] [--v6]\n\
                     120 s of acts and 120 s after them, and a new seed without those; --protocol leaves out what \
                     breaks the protocol. A lost call, a link between honest nodes that ends or a daemon that grows \
                     fails it.";
/// What a daemon may grow by, in KiB.
const MOST_KIB: u64 = 96 * 1024;

fn main() -> ExitCode {
    let (attack, family) = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "hostile: {error:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let played = lab::remove_all_on_signals(|| {}).and_then(|()| play(&attack, family)).and_then(|report| {
        write!(std::io::stdout(), "seed          {}\n{report}", attack.seed)?;
        report.ensure_harmless(MOST_KIB)
    });
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "hostile: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<(Attack, Family)> {
    let mut attack =
        Attack { acts_s: 120, after_s: 120, acts: Act::ALL.to_vec(), tunnels: true, seed: fastrand::u64(0..1_000_000) };
    let mut family = Family::V4;
    while let Some(argument) = arguments.next() {
        let mut value = || -> Result<u64> {
            let text = arguments.next().with_context(|| format!("{argument} needs a value"))?;
            text.parse().with_context(|| format!("read the value of {argument}"))
        };
        match argument.as_str() {
            "--seconds" => attack.acts_s = value()?,
            "--after" => attack.after_s = value()?,
            "--seed" => attack.seed = value()?,
            "--protocol" => attack.acts.retain(|act| act.keeps_to_protocol()),
            "--v6" => family = Family::V6,
            _ => bail!("what is {argument}?"),
        }
    }
    ensure!((10..=86_400).contains(&attack.acts_s), "give ten seconds to a day");
    ensure!(attack.after_s <= 86_400, "give a day at most");
    Ok((attack, family))
}

fn play(played: &Attack, family: Family) -> Result<Report> {
    forwarder::binary()?;
    let mut found = None;
    Lab::alone_with_edges(EDGES)?.test(|lab| {
        found = Some(attack(lab, family, played)?);
        Ok(())
    })?;
    found.context("play an attack")
}
