//! `cargo xtask ci`: everything a change must pass.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::ebpf;
use crate::project::Project;
use crate::run::{run, say};
use crate::setup::Toolchain;

/// Formatting of the workspace and of the eBPF crate.
pub(crate) fn format(project: &Project) -> Result<()> {
    let hint = "format; hint: `cargo fmt` mends it; `rustup component add rustfmt` where it is missing";
    run("formatting", project.cargo().args(["fmt", "--all", "--check"])).context(hint)?;
    let mut ebpf = project.cargo();
    ebpf.args(["fmt", "--check", "--manifest-path"]).arg(ebpf::manifest(project));
    run("formatting of the eBPF programs", &mut ebpf).context(hint)
}

/// Clippy of everything, then the documentation; a warning is an error.
pub(crate) fn lint(project: &Project, toolchain: &Toolchain) -> Result<()> {
    let mut clippy = project.cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    run("clippy", &mut clippy).context("lint; hint: `rustup component add clippy` where it is missing")?;
    if !ebpf::lint(project, toolchain)? {
        say(format_args!("SKIPPED clippy of the eBPF programs: {} has none", toolchain.name()));
    }
    let mut doc: Command = project.cargo();
    doc.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    run("documentation", &mut doc)
}
