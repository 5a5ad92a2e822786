//! `cargo xtask hostile`: the hostile peer, by `tests/src/bin/hostile.rs`.

use std::ffi::OsString;

use anyhow::Result;

use crate::project::Project;
use crate::run::{SEE_ABOVE, become_command, run, say};

/// Plays it with these arguments of the runner; the daemon is built already.
pub(crate) fn hostile(project: &Project, args: &[OsString]) -> Result<()> {
    let peer = ["--release", "--package", "tests", "--bin", "hostile"];
    let mut cargo = project.cargo();
    run("build the hostile peer", SEE_ABOVE, cargo.arg("build").args(peer))?;
    say("hostile");
    let mut cargo = project.cargo();
    cargo.args(["run", "--quiet"]).args(peer).arg("--").args(args);
    Err(become_command(cargo.env("FORWARDER_BIN", project.forwarder())))
}
