//! `bpf-linker`, which opens the libLLVM of the compiler that builds the eBPF programs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::crates_io::Tool;
use super::toolchain::Toolchain;
use crate::pins;
use crate::project::Project;

const LINKER: Tool = Tool {
    name: "bpf-linker",
    version: pins::BPF_LINKER,
    features: pins::BPF_LINKER_FEATURES,
    takes: "about a minute",
};

/// Where it is, once installed.
pub(crate) fn linker_path(project: &Project) -> PathBuf {
    LINKER.path(project)
}

/// Builds the pinned version unless it is there.
pub(crate) fn install(project: &Project, toolchain: &Toolchain) -> Result<()> {
    let mut found = Command::new(linker_path(project));
    if LINKER.is_version_of(found.env("LD_LIBRARY_PATH", toolchain.llvm())) {
        return Ok(());
    }
    LINKER.install(project, project.cargo().env("LD_LIBRARY_PATH", toolchain.llvm()))
}
