//! `cargo xtask`: everything a developer or CI does.
//!
//! Each verb first finds or installs what it needs, says what it is doing, and where it cannot go on ends with one
//! sentence that says what to do.

mod bench;
mod build;
mod chaos;
mod ci;
mod deny;
mod ebpf;
mod fuzz;
mod hostile;
mod kernels;
mod lines;
mod miri;
mod pins;
mod project;
mod run;
mod setup;
mod simulate;
mod testing;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::build::{build, need};
use crate::project::{Project, need_root};
use crate::run::{SEE_ABOVE, become_command, run, say};
use crate::setup::{Need, setup};
use crate::testing::Counts;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Builds, tests and shows the forwarder")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find or install what all the other verbs need (as root, where a Debian package is missing)
    Setup,
    /// Build the eBPF programs and the daemon
    Build,
    /// Run all tests (as root: some run in network namespaces)
    Test {
        /// Run only tests whose name holds this
        filter: Option<String>,
        /// Leave out the tests in network namespaces, which need root
        #[arg(long)]
        no_lab: bool,
    },
    /// Show calls over three edge hosts without and with the forwarder (as root)
    Demo {
        /// Passed on to the demo
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Load each eBPF program and print what the kernel's verifier says of it (as root)
    Verify {
        /// Make the numbers those that later ones are compared with
        #[arg(long)]
        record: bool,
    },
    /// Boot Debian's kernels in emulated machines and run the eBPF programs in each (as root)
    Kernels {
        /// Download the newest packages, also where there are some already
        #[arg(long)]
        update: bool,
        /// Make the numbers those that later ones are compared with
        #[arg(long)]
        record: bool,
    },
    /// Make up bytes for all that reads what comes from the network (needs a C++ compiler)
    Fuzz {
        /// Only this one; all in turn without it
        target: Option<fuzz::Target>,
        /// How long to fuzz each one
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
        /// Put the fewest inputs that reach as much into `fuzz/corpus`, which the tests play
        #[arg(long)]
        keep: bool,
    },
    /// Run the unit tests of what programs and daemon share under Miri (needs a nightly that has it)
    Miri,
    /// Play a cluster of many nodes in virtual time and check it against a reference model
    Simulate {
        /// Passed on to the simulation: `--scenario NAME`, `--nodes N`, `--seed N` and more
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Let calls go on over five edges while faults come from a seed's schedule (as root)
    Chaos {
        /// Passed on to the soak: `--minutes N`, `--seed N` and more
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Let a node with a good certificate say whatever it likes to three honest ones, beside calls (as root)
    Hostile {
        /// Passed on to the peer: `--seconds N`, `--after N`, `--seed N` and more
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Measure the eBPF programs in multiples of an empty one (as root); `--help` lists the arguments
    #[command(disable_help_flag = true)]
    Bench {
        /// Passed on: `--rows FILTER`, `--rounds N`, `--json FILE`, `--compare A B`, …; with `--cluster` first, daemons
        /// and links are measured
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Name the lines that are too long
    Lines {
        /// Break comments and prose anew instead
        #[arg(long)]
        rewrap: bool,
        /// Only in these files, named from the project's root
        #[arg(requires = "rewrap")]
        files: Vec<PathBuf>,
    },
    /// What CI runs: formatting, clippy, documentation, dependencies, then all tests
    Ci {
        /// Leave out the tests in network namespaces, which need root
        #[arg(long)]
        no_lab: bool,
    },
}

fn main() -> ExitCode {
    match Project::find().and_then(|project| perform(&project, Cli::parse().verb)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(project: &Project, verb: Verb) -> Result<()> {
    match verb {
        Verb::Setup => setup(project, Need::Lab).map(drop),
        Verb::Build => build(project, Need::Build).map(drop),
        Verb::Test { filter, no_lab } => {
            let lab = !no_lab;
            let toolchain = build(project, need(lab))?;
            ebpf::build_yardsticks(project, &toolchain)?;
            testing::test(project, filter.as_deref(), lab, Counts::default())
        }
        Verb::Demo { args } => demo(project, &args),
        Verb::Verify { record } => {
            need_root("load programs into the kernel")?;
            build(project, Need::Build)?;
            verify::verify(project, record)
        }
        Verb::Kernels { update, record } => {
            need_root("load programs into the running kernel")?;
            ebpf::check_architecture()?;
            ebpf::build(project, &setup(project, Need::Build)?)?;
            kernels::kernels(project, update, record)
        }
        Verb::Simulate { args } => simulate::simulate(project, &args),
        Verb::Chaos { args } => {
            need_root("make network namespaces")?;
            build(project, Need::Lab)?;
            chaos::chaos(project, &args)
        }
        Verb::Hostile { args } => {
            need_root("make network namespaces")?;
            build(project, Need::Lab)?;
            hostile::hostile(project, &args)
        }
        Verb::Bench { args } => bench::bench(project, &args),
        Verb::Fuzz { target, seconds, keep } => {
            // What a target embeds of the daemon needs the programs.
            ebpf::check_architecture()?;
            ebpf::build(project, &setup(project, Need::Build)?)?;
            fuzz::fuzz(project, target, seconds, keep)
        }
        Verb::Miri => miri::miri(project),
        Verb::Lines { rewrap: true, files } => lines::rewrap(project, &files),
        Verb::Lines { rewrap: false, .. } => lines::check(project),
        Verb::Ci { no_lab } => ci::ci(project, !no_lab),
    }
}

fn demo(project: &Project, args: &[OsString]) -> Result<()> {
    need_root("make network namespaces")?;
    build(project, Need::Lab)?;
    let mut cargo = project.cargo();
    run("build the demo", SEE_ABOVE, cargo.args(["build", "--release", "--package", "tests", "--bin", "demo"]))?;
    say("demo");
    let mut cargo = project.cargo();
    cargo.args(["run", "--quiet", "--release", "--package", "tests", "--bin", "demo", "--"]).args(args);
    Err(become_command(cargo.env("FORWARDER_BIN", project.forwarder())))
}
