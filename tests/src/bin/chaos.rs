//! The soak: calls of all kinds over five edges while faults come from a seed's schedule.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use tests::chaos::{EDGES, Report, Schedule, soak};
use tests::forwarder;
use tests::lab::{self, Lab};

const USAGE: &str = "usage: chaos [--minutes N] [--seconds N] [--seed N] [--schedule FILE]\n\
                     10 minutes and a new seed without them; a file has a line for each fault: its beginning and its \
                     length in milliseconds, its word, its numbers. Calls that are lost without an excuse fail it.";

struct Options {
    seconds: u64,
    seed: u64,
    schedule: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "chaos: {error:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match lab::remove_all_on_signals(|| {}).and_then(|()| chaos(&options)) {
        Ok(report) => {
            let _ = write!(std::io::stdout(), "{report}");
            if report.inexcusable().count() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options { seconds: 600, seed: fastrand::u64(0..1_000_000), schedule: None };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        let bad = || format!("read the value of {argument}");
        match argument.as_str() {
            "--minutes" => options.seconds = value()?.parse::<u64>().with_context(bad)? * 60,
            "--seconds" => options.seconds = value()?.parse().with_context(bad)?,
            "--seed" => options.seed = value()?.parse().with_context(bad)?,
            "--schedule" => options.schedule = Some(value()?.into()),
            _ => bail!("what is {argument}?"),
        }
    }
    ensure!((30..=86_400).contains(&options.seconds), "give half a minute to a day");
    Ok(options)
}

fn chaos(options: &Options) -> Result<Report> {
    forwarder::binary()?;
    let schedule = options.schedule.as_ref().map(|file| -> Result<Schedule> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        text.parse().with_context(|| format!("read {}", file.display()))
    });
    let mut found = None;
    Lab::alone_with_edges(EDGES)?.test(|lab| {
        let report =
            soak(lab, options.seed, options.seconds, schedule.transpose()?, |line| eprintln!("chaos: {line}"))?;
        if !report.lost.is_empty() {
            lab.keep();
            eprintln!("chaos: the schedule, captures, logs and the lost calls are in {}", lab.folder().display());
        }
        found = Some(report);
        Ok(())
    })?;
    found.context("run a soak")
}
