//! How many instructions of each program a verifier may walk: what was recorded for its kernel and a quarter more, and
//! on any kernel half of what the verifier takes at all.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use forwarder::dataplane::VERIFIER_LIMIT;

/// What was recorded, by kernel (`6.1`) and program.
pub const RECORDED: &str = include_str!("../../../forwarder-ebpf/budget.toml");

/// What a program may grow by before it has to be recorded anew.
const SLACK_PERCENT: u64 = 25;
/// Beyond it the next change may be the one that no longer loads.
const MOST: u32 = VERIFIER_LIMIT / 2;

/// What is wrong with `programs`, each a name and the instructions that the kernel of this release has walked.
///
/// A kernel that nothing was recorded for has only the limit that all have.
///
/// # Errors
/// `recorded` cannot be read.
pub fn complaints(recorded: &str, release: &str, programs: &[(&str, u32)]) -> Result<Vec<String>> {
    let recorded: BTreeMap<String, BTreeMap<String, u32>> =
        toml::from_str(recorded).context("read forwarder-ebpf/budget.toml")?;
    let kernel = series(release);
    let budget = recorded.get(&kernel);
    let complaint = |(name, instructions): &(&str, u32)| {
        if *instructions > MOST {
            return Some(format!("{name} passes half of the verifier's limit: {instructions} > {MOST}"));
        }
        let Some(before) = budget?.get(*name) else {
            return Some(format!("{name} is not recorded for Linux {kernel}"));
        };
        let most = u64::from(*before) * (100 + SLACK_PERCENT) / 100;
        let is_over = u64::from(*instructions) > most;
        is_over.then(|| {
            format!("{name} outgrows its budget on Linux {kernel}: {instructions} > {most} ({before} were recorded)")
        })
    };
    Ok(programs.iter().filter_map(complaint).collect())
}

/// Major and minor version of a release such as `6.1.0-50-amd64`.
fn series(release: &str) -> String {
    release.split(|c: char| !c.is_ascii_digit()).take(2).collect::<Vec<_>>().join(".")
}
