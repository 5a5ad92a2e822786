//! The forwarder's binary, and commands of it that run to their end.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};

/// The forwarder's binary: `FORWARDER_BIN`, as `cargo xtask test` sets it, else the workspace's release build.
///
/// # Errors
/// There is none.
pub fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("FORWARDER_BIN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/forwarder"), PathBuf::from);
    path.canonicalize().with_context(|| format!("find the forwarder at {}; hint: `cargo xtask build`", path.display()))
}

/// Runs the forwarder outside of any namespace, to its end.
///
/// # Errors
/// It cannot be started. A bad exit code is no error here.
pub fn tool(arguments: &[&str]) -> Result<Output> {
    let binary = binary()?;
    let mut command = Command::new(&binary);
    command.args(arguments).stdin(Stdio::null()).output().with_context(|| format!("run {}", binary.display()))
}

/// Runs the forwarder and demands exit code 0; returns its standard output.
///
/// # Errors
/// Another exit code; the message holds its standard error.
pub fn tool_ok(arguments: &[&str]) -> Result<String> {
    let output = tool(arguments)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "forwarder {} failed ({}): {errors}", arguments.join(" "), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
