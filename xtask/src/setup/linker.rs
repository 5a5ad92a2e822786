//! `bpf-linker`, built from crates.io into the project's own `.tools`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Toolchain;
use crate::pins;
use crate::project::Project;
use crate::run::{output, run_logged};

/// Where it is, once installed.
pub(crate) fn linker_path(project: &Project) -> PathBuf {
    project.tools().join("bin/bpf-linker")
}

/// Builds the pinned version unless it is there.
pub(crate) fn install(project: &Project, toolchain: &Toolchain) -> Result<()> {
    if is_there(project, toolchain) {
        return Ok(());
    }
    let build_dir = project.target().join("xtask/bpf-linker");
    let mut command = project.cargo();
    command
        .args(["install", "bpf-linker", "--locked", "--force", "--version", pins::BPF_LINKER])
        .args(["--no-default-features", "--features", pins::BPF_LINKER_FEATURES])
        .arg("--root")
        .arg(project.tools())
        .env("CARGO_TARGET_DIR", &build_dir)
        .env("LD_LIBRARY_PATH", toolchain.llvm());
    let what = format!("build bpf-linker {} into .tools (about a minute)", pins::BPF_LINKER);
    run_logged(&what, &project.log("bpf-linker")?, &mut command)
        .context("install bpf-linker; hint: this needs crates.io and a C compiler")?;
    // What it was built from takes hundreds of megabytes and is never used again.
    if build_dir.exists() {
        fs::remove_dir_all(&build_dir).with_context(|| format!("remove {}", build_dir.display()))?;
    }
    Ok(())
}

fn is_there(project: &Project, toolchain: &Toolchain) -> bool {
    let version = output(Command::new(linker_path(project)).arg("--version").env("LD_LIBRARY_PATH", toolchain.llvm()));
    version.is_some_and(|line| line.split_whitespace().any(|word| word == pins::BPF_LINKER))
}
