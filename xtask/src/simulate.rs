//! `cargo xtask simulate`: many nodes in virtual time, by `tests/src/bin/simulate.rs`.

use std::ffi::OsString;

use anyhow::Result;

use crate::ebpf;
use crate::project::Project;
use crate::run::{SEE_ABOVE, become_command, run, say};
use crate::setup::{Need, setup};

/// Plays scenarios, with these arguments of the runner; needs neither root nor a kernel.
pub(crate) fn simulate(project: &Project, args: &[OsString]) -> Result<()> {
    // The daemon's library, whose core is played, embeds the programs.
    if !project.ebpf_object().is_file() {
        let toolchain = setup(project, Need::Build)?;
        ebpf::build(project, &toolchain)?;
    }
    let mut cargo = project.cargo();
    cargo.args(["build", "--release", "--package", "tests", "--bin", "simulate"]);
    run("build the simulation", SEE_ABOVE, &mut cargo)?;
    say("simulate");
    let mut cargo = project.cargo();
    cargo.args(["run", "--quiet", "--release", "--package", "tests", "--bin", "simulate", "--"]);
    Err(become_command(cargo.args(args)))
}
