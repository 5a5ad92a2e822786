//! Tools that are built from crates.io into the project's own `.tools`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::project::Project;
use crate::run::{output, run_logged};

/// A pinned version of a crate with one program, which has the crate's name.
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    /// Its features, with commas between; the default ones are left out.
    pub(super) features: &'static str,
    /// How long its build takes, in words.
    pub(super) takes: &'static str,
}

impl Tool {
    /// Where it is, once installed.
    pub(super) fn path(&self, project: &Project) -> PathBuf {
        project.tools().join("bin").join(self.name)
    }

    /// Whether what `command --version` says names the pinned version.
    pub(super) fn is_version_of(&self, command: &mut Command) -> bool {
        let said = output(command.arg("--version"));
        said.is_some_and(|line| line.split_whitespace().any(|word| word == self.version))
    }

    /// Builds it with `cargo`, which may hold what the build needs in its environment.
    pub(super) fn install(&self, project: &Project, cargo: &mut Command) -> Result<()> {
        let build_dir = project.target().join("xtask").join(self.name);
        cargo.args(["install", self.name, "--locked", "--force", "--version", self.version]);
        cargo.args(["--no-default-features", "--features", self.features]);
        cargo.arg("--root").arg(project.tools()).env("CARGO_TARGET_DIR", &build_dir);
        let what = format!("build {} {} into .tools ({})", self.name, self.version, self.takes);
        run_logged(&what, &project.log(self.name)?, cargo)
            .with_context(|| format!("install {}; hint: this needs crates.io and a C compiler", self.name))?;
        // What it was built from takes hundreds of megabytes and is never used again.
        if build_dir.exists() {
            fs::remove_dir_all(&build_dir).with_context(|| format!("remove {}", build_dir.display()))?;
        }
        Ok(())
    }
}
