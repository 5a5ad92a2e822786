//! `cargo xtask ci`: everything a change must pass.

use anyhow::Result;

use crate::ebpf;
use crate::project::Project;
use crate::run::{SEE_ABOVE, run, say};
use crate::setup::Toolchain;

/// Formatting of the workspace and of the eBPF crate.
pub(crate) fn format(project: &Project) -> Result<()> {
    let hint = "`cargo fmt` mends it; where that is missing, `rustup component add rustfmt`";
    run("formatting", hint, project.cargo().args(["fmt", "--all", "--check"]))?;
    let mut ebpf = project.cargo();
    ebpf.args(["fmt", "--check", "--manifest-path"]).arg(ebpf::manifest(project));
    run("formatting of the eBPF programs", "`cargo fmt` in forwarder-ebpf mends it", &mut ebpf)
}

/// Clippy of everything, then the documentation; a warning is an error.
pub(crate) fn lint(project: &Project, toolchain: &Toolchain) -> Result<()> {
    let mut clippy = project.cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    let hint = "the lines above say why; where clippy is missing, `rustup component add clippy`";
    run("clippy", hint, &mut clippy)?;
    if !ebpf::lint(project, toolchain)? {
        say(format_args!("SKIPPED clippy of the eBPF programs: {} has none", toolchain.name()));
    }
    let mut doc = project.cargo();
    doc.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    run("documentation", SEE_ABOVE, &mut doc)
}
