//! The library that makes a daemon's wall clock wrong: `examples/skew.rs` of this crate.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

/// The variable that says by how many seconds.
pub(super) const SECONDS: &str = "LAB_SKEW_S";
/// Where cargo puts it, beside the programs and above those of tests.
const PLACES: [&str; 2] = ["examples", "../examples"];

/// Its file.
///
/// # Errors
/// It was not built.
pub(super) fn library() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program's own file")?;
    let folder = own.parent().context("find this program's folder")?;
    let found = PLACES.map(|place| folder.join(place).join("libskew.so")).into_iter().find(|file| file.is_file());
    let hint = "hint: `cargo build --package tests --example skew`, with `--release` where this is";
    ensure!(found.is_some(), "find libskew.so beside {}; {hint}", own.display());
    found.context(hint)
}
