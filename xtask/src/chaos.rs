//! `cargo xtask chaos`: the soak, by `tests/src/bin/chaos.rs`.

use std::ffi::OsString;

use anyhow::Result;

use crate::project::Project;
use crate::run::{SEE_ABOVE, become_command, run, say};

/// Runs a soak with these arguments of the runner; the daemon is built already.
pub(crate) fn chaos(project: &Project, args: &[OsString]) -> Result<()> {
    let soak = ["--release", "--package", "tests", "--bin", "chaos"];
    let mut cargo = project.cargo();
    // With what makes a daemon's clock wrong.
    run("build the soak", SEE_ABOVE, cargo.arg("build").args(soak).args(["--example", "skew"]))?;
    say("chaos");
    let mut cargo = project.cargo();
    cargo.args(["run", "--quiet"]).args(soak).arg("--").args(args);
    Err(become_command(cargo.env("FORWARDER_BIN", project.forwarder())))
}
