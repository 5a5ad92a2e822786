//! `cargo xtask ci`: everything a change must pass; the first thing that fails ends it.

use anyhow::Result;

use crate::build::{build, need};
use crate::project::Project;
use crate::run::{SEE_ABOVE, run, say};
use crate::setup::{Toolchain, try_clippy};
use crate::testing::{self, Counts};
use crate::{deny, ebpf, fuzz, lines, miri};

/// Looks over the sources and what they depend on, then runs all tests; `lab` includes those in network namespaces.
pub(crate) fn ci(project: &Project, lab: bool) -> Result<()> {
    let mut counts = Counts::default();
    format(project)?;
    let toolchain = build(project, need(lab))?;
    try_clippy(project, &toolchain);
    clippy(project, &toolchain, &mut counts)?;
    document(project)?;
    if let Some(why) = deny::check(project)? {
        skip(&mut counts, &format!("the advisories: {why}"));
    }
    lines::check(project)?;
    if let Some(why) = miri::check(project)? {
        skip(&mut counts, &format!("Miri: {why}"));
    }
    ebpf::build_yardsticks(project, &toolchain)?;
    testing::test(project, None, lab, counts)
}

/// Formatting of the workspace, of the eBPF crate and of the fuzz targets.
fn format(project: &Project) -> Result<()> {
    let hint = "`cargo fmt` mends it; where that is missing, `rustup component add rustfmt`";
    run("formatting", hint, project.cargo().args(["fmt", "--all", "--check"]))?;
    for (what, manifest) in [
        ("formatting of the eBPF programs", ebpf::manifest(project)),
        ("formatting of the fuzz targets", fuzz::manifest(project)),
    ] {
        let mut cargo = project.cargo();
        cargo.args(["fmt", "--check", "--manifest-path"]).arg(&manifest);
        run(what, "`cargo fmt` with the same `--manifest-path` mends it", &mut cargo)?;
    }
    Ok(())
}

/// Clippy of everything; a warning is an error.
fn clippy(project: &Project, toolchain: &Toolchain, counts: &mut Counts) -> Result<()> {
    let hint = "the lines above say why; where clippy is missing, `rustup component add clippy`";
    let mut clippy = project.cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    run("clippy", hint, &mut clippy)?;
    if !ebpf::lint(project, toolchain)? {
        skip(counts, &format!("clippy of the eBPF programs: {} has none", toolchain.name()));
    }
    fuzz::lint(project)
}

/// The documentation; a warning is an error.
fn document(project: &Project) -> Result<()> {
    let mut doc = project.cargo();
    doc.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    run("documentation", SEE_ABOVE, &mut doc)
}

fn skip(counts: &mut Counts, what: &str) {
    say(format_args!("SKIPPED {what}"));
    counts.skipped += 1;
}
