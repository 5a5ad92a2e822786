//! Measures the programs of the kernel side: `cargo xtask bench`.
//!
//! All rows run interleaved, round by round, through `BPF_PROG_TEST_RUN` on one CPU. A row whose packets are fed by a
//! program of the yardstick has that program's cost taken off: the same feeding of an empty program, of the same round.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark reads nobody's input")]

mod bed;
mod cpu;
mod daemon;
#[path = "../../forwarder-ebpf/src/bin/yardstick/feed.rs"]
mod feed;
mod frames;
mod kernel;
mod measure;
mod node;
mod report;
mod rows;
mod veth;
mod yardstick;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;

#[derive(Parser)]
#[command(about = "Measures the kernel side")]
struct Cli {
    /// The forwarder's eBPF object; the one that this build embeds without it
    #[arg(long, default_value = forwarder::dataplane::OBJECT_PATH)]
    object: PathBuf,
    /// The yardstick's
    #[arg(long)]
    yardstick: Option<PathBuf>,
    /// The forwarder's with the kernel's LRU hash in the place of its claim table
    #[arg(long)]
    lru: Option<PathBuf>,
    /// Write the figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Print two such files beside each other and measure nothing
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    compare: Vec<PathBuf>,
    /// End to end on a veth pair, and a UDP flood, instead of the programs alone
    #[arg(long)]
    veth: bool,
    /// Injection, and real daemons with 1 and 4 million claims, instead of the programs alone
    #[arg(long, conflicts_with = "veth")]
    daemon: bool,
    /// Claims that the daemons have in the end
    #[arg(
        long,
        default_values_t = [1_000_000, 4_000_000],
        value_parser = clap::value_parser!(u32).range(200_000..=16_000_000)
    )]
    claims: Vec<u32>,
    /// Seconds of 10,000 transactions each that the daemons are given
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    seconds: u32,
    /// The daemon's binary
    #[arg(long)]
    forwarder: Option<PathBuf>,
    /// Only rows whose name holds this (several: any of them)
    #[arg(long)]
    rows: Vec<String>,
    /// How often each row is run
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The CPU to run on; the last one without it
    #[arg(long)]
    cpu: Option<usize>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if let [before, after] = &cli.compare[..] {
        report::Run::read(before)?.compare(&report::Run::read(after)?);
        return Ok(());
    }
    let cpu = cli.cpu.unwrap_or(std::thread::available_parallelism()?.get() - 1);
    cpu::pin(cpu)?;
    let yardstick = cli.yardstick.context("find the yardstick's object; hint: run `cargo xtask bench`")?;
    let objects = measure::Objects { forwarder: &cli.object, yardstick: &yardstick, lru: cli.lru.as_deref() };
    let rounds = cli.rounds as usize;
    let progress = |round: usize| eprint!("\rround {} of {} ", round + 1, cli.rounds);
    let mut values = Vec::new();
    let (title, figures) = if cli.daemon {
        let binary = cli.forwarder.context("find the daemon; hint: run `cargo xtask bench --daemon`")?;
        let figures = daemon::injection(&yardstick, cpu, rounds)?;
        let other = if cpu == 0 { 1 } else { 0 };
        for claims in cli.claims {
            values.extend(daemon::scale(&binary, [other, cpu], claims, cli.seconds)?);
        }
        ("CPU time of one core; multiples of the other way", figures)
    } else if cli.veth {
        let figures = veth::measure(&objects, cpu, rounds, |name| wanted(&cli.rows, name), progress)?;
        ("one core does all; multiples of the row that the group names", figures)
    } else {
        let rows: Vec<_> = rows::all().into_iter().filter(|row| wanted(&cli.rows, &row.name)).collect();
        let mut machine = measure::Machine::load(&objects, &rows)?;
        ("multiples of the empty program of the same hook", machine.measure(&rows, rounds, progress)?)
    };
    eprintln!();
    let mut run = report::Run::new(title, &figures, rounds);
    run.values = values;
    run.print();
    match cli.json {
        Some(path) => run.write(&path),
        None => Ok(()),
    }
}

fn wanted(filters: &[String], name: &str) -> bool {
    filters.is_empty() || name.starts_with("empty ") || filters.iter().any(|filter| name.contains(filter))
}
