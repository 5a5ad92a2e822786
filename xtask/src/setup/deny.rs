//! `cargo-deny`, which looks over licences and sources of all dependencies.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::crates_io::Tool;
use crate::pins;
use crate::project::{Project, find_command};

const DENY: Tool = Tool { name: "cargo-deny", version: pins::CARGO_DENY, features: "", takes: "two minutes or three" };
/// Its own release profile takes far longer to build than the tool ever runs.
const QUICK_BUILD: [(&str, &str); 3] = [
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
];

/// The pinned version, of the machine if that has it, else of `.tools`, where it is built unless it is there.
pub(crate) fn install(project: &Project) -> Result<PathBuf> {
    let own = DENY.path(project);
    let is_there = |file: &PathBuf| DENY.is_version_of(&mut Command::new(file));
    if let Some(found) = find_command(DENY.name).into_iter().chain([own.clone()]).find(is_there) {
        return Ok(found);
    }
    DENY.install(project, project.cargo().envs(QUICK_BUILD))?;
    Ok(own)
}
