//! Many nodes in virtual time: plays scenarios and prints what they have shown.

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use tests::simulation::{NAMES, Report, Scenario, Summary, run};

/// What is played without a name.
const USUAL: [&str; 9] =
    ["steady", "partition", "crash", "rolling", "flapping", "stalls", "joining", "clocks", "chaos"];
/// Nodes of a scenario without a number.
const NODES: usize = 15;
/// Nodes of the headline.
const HEADLINE_NODES: usize = 300;
/// Its transactions a second: a twentieth of 10,000, so that 300 maps of the whole cluster fit into one machine.
const HEADLINE_RATE: u64 = 500;

#[derive(Debug, Default)]
struct Options {
    scenarios: Vec<String>,
    nodes: Option<usize>,
    seed: u64,
    seeds: Option<u64>,
    contacts: Option<usize>,
    rate: Option<u64>,
    traffic_s: Option<u64>,
    hold_ms: Option<u64>,
    t1_ms: Option<u64>,
    timer_c_ms: Option<u64>,
    elsewhere_percent: Option<u32>,
    loss_percent: Option<f64>,
}

fn main() -> ExitCode {
    match options(std::env::args().skip(1)).and_then(|options| simulate(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "simulate: {error:#}\n{}", usage());
            ExitCode::from(2)
        }
    }
}

fn usage() -> String {
    let scenarios: String = NAMES.iter().map(|(name, what)| format!("  {name:<12}{what}\n")).collect();
    format!(
        "usage: simulate [--scenario NAME]... [--nodes N] [--seed N] [--seeds N] [--contacts N] [--rate N]\n\
         \x20               [--seconds N] [--hold-ms N] [--t1-ms N] [--timer-c-ms N] [--elsewhere PERCENT]\n\
         \x20               [--loss PERCENT]\n\
         --seeds N plays N seeds from --seed on and prints one table of all; --contacts N is how many nodes all\n\
         others call when they start\n\
         scenarios:\n{scenarios}"
    )
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options { seed: 1, ..Options::default() };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        let bad = || format!("read the value of {argument}");
        match argument.as_str() {
            "--scenario" => options.scenarios.push(value()?),
            "--nodes" => options.nodes = Some(value()?.parse().with_context(bad)?),
            "--seed" => options.seed = value()?.parse().with_context(bad)?,
            "--seeds" => options.seeds = Some(value()?.parse().with_context(bad)?),
            "--contacts" => options.contacts = Some(value()?.parse().with_context(bad)?),
            "--rate" => options.rate = Some(value()?.parse().with_context(bad)?),
            "--seconds" => options.traffic_s = Some(value()?.parse().with_context(bad)?),
            "--hold-ms" => options.hold_ms = Some(value()?.parse().with_context(bad)?),
            "--t1-ms" => options.t1_ms = Some(value()?.parse().with_context(bad)?),
            "--timer-c-ms" => options.timer_c_ms = Some(value()?.parse().with_context(bad)?),
            "--elsewhere" => options.elsewhere_percent = Some(value()?.parse().with_context(bad)?),
            "--loss" => options.loss_percent = Some(value()?.parse().with_context(bad)?),
            _ => bail!("what is {argument}?"),
        }
    }
    if options.scenarios.is_empty() {
        options.scenarios = USUAL.map(str::to_owned).into();
    }
    Ok(options)
}

/// Plays all scenarios; whether all nodes agreed with the reference in each.
fn simulate(options: &Options) -> Result<bool> {
    let mut is_good = true;
    for name in &options.scenarios {
        is_good &= match options.seeds {
            None => {
                let report = play(options, name, options.seed)?;
                let _ = writeln!(std::io::stdout(), "{report}\n");
                report.is_good()
            }
            Some(seeds) => play_seeds(options, name, seeds)?,
        };
    }
    Ok(is_good)
}

/// Plays a scenario with many seeds, and prints one table of all.
fn play_seeds(options: &Options, name: &str, seeds: u64) -> Result<bool> {
    let mut summary = Summary::default();
    for seed in options.seed..options.seed + seeds {
        let report = play(options, name, seed)?;
        if !report.is_good() {
            let _ = writeln!(std::io::stdout(), "{report}");
        }
        summary.add(&report);
    }
    let _ = writeln!(std::io::stdout(), "{summary}");
    for seed in summary.failed() {
        let _ = writeln!(std::io::stdout(), "replay it: cargo xtask simulate {}", replay(name, *seed));
    }
    Ok(summary.failed().is_empty())
}

/// The arguments that play one seed of this run again.
fn replay(name: &str, seed: u64) -> String {
    let mut arguments = vec!["--scenario".to_owned(), name.to_owned(), "--seed".to_owned(), seed.to_string()];
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let value = given.next().unwrap_or_default();
        if !["--scenario", "--seed", "--seeds"].contains(&argument.as_str()) {
            arguments.extend([argument, value]);
        }
    }
    arguments.join(" ")
}

fn play(options: &Options, name: &str, seed: u64) -> Result<Report> {
    let is_headline = name == "headline";
    let nodes = match name {
        "headline" => HEADLINE_NODES,
        // Small clusters, in which many faults meet.
        "chaos" => 5 + (seed % 8) as usize,
        _ => NODES,
    };
    let nodes = options.nodes.unwrap_or(nodes);
    let mut scenario = Scenario::named(name, nodes, seed).with_context(|| format!("find a scenario named {name}"))?;
    scenario.rate = options.rate.unwrap_or(if is_headline { HEADLINE_RATE } else { scenario.rate });
    scenario.seeds = options.contacts.map_or(scenario.seeds, |contacts| contacts.clamp(1, nodes));
    scenario.traffic_s = options.traffic_s.unwrap_or(scenario.traffic_s);
    scenario.hold_ms = options.hold_ms.unwrap_or(scenario.hold_ms);
    scenario.t1_ms = options.t1_ms.unwrap_or(scenario.t1_ms);
    scenario.timer_c_ms = options.timer_c_ms.unwrap_or(scenario.timer_c_ms);
    scenario.elsewhere_percent = options.elsewhere_percent.unwrap_or(scenario.elsewhere_percent);
    scenario.loss = options.loss_percent.map_or(scenario.loss, |percent| percent / 100.0);
    run(&scenario)
}
