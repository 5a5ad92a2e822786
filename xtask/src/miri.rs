//! `cargo xtask miri`: the unit tests of `forwarder-common` under Miri, which sees undefined behaviour in its few
//! unsafe blocks. Programs in the kernel and the daemon share that code.
//!
//! Miri is part of some of rustup's nightlies. Where none has it, the verb fails and says so; CI counts it as skipped.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::pins;
use crate::project::{Project, forget_own_environment};
use crate::run::{SEE_ABOVE, run};
use crate::setup::nightlies;

/// What is run: the tests beside the sources. Those with thousands of random messages would take hours.
const TESTS: [&str; 4] = ["test", "--package", "forwarder-common", "--lib"];

/// Runs the tests.
///
/// # Errors
/// A test fails, or there is no Miri.
pub(crate) fn miri(project: &Project) -> Result<()> {
    match check(project)? {
        None => Ok(()),
        Some(why) => bail!("run the tests of forwarder-common under Miri: {why}"),
    }
}

/// Runs the tests; the reason if there is no Miri.
///
/// # Errors
/// A test fails.
pub(crate) fn check(project: &Project) -> Result<Option<String>> {
    let Some((nightly, _)) = nightlies().into_iter().find(|(_, root)| has_miri(root)) else {
        let hint = format!("`rustup toolchain install {} --component miri,rust-src`", pins::NIGHTLY);
        return Ok(Some(format!("no nightly of rustup's has it; hint: {hint}")));
    };
    let mut miri = Command::new("rustup");
    forget_own_environment(&mut miri);
    miri.current_dir(project.root()).args(["run", &nightly, "cargo", "miri"]).args(TESTS);
    // It builds everything otherwise than a compiler does.
    miri.env_remove("CARGO").env("CARGO_TARGET_DIR", project.target().join("miri"));
    run("the unit tests of forwarder-common under Miri", SEE_ABOVE, &mut miri)?;
    Ok(None)
}

/// Whether a toolchain there has Miri and what it builds first.
fn has_miri(root: &Path) -> bool {
    let needed = ["bin/cargo-miri", "bin/miri", "lib/rustlib/src/rust/library/std/Cargo.toml"];
    needed.iter().all(|file| root.join(file).is_file())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_nightly_has_miri_with_both_programs_and_the_standard_librarys_source() {
        let root = std::env::temp_dir().join(format!("xtask-miri-{}", std::process::id()));
        for file in ["bin/cargo-miri", "bin/miri", "lib/rustlib/src/rust/library/std/Cargo.toml"] {
            assert!(!has_miri(&root), "before {file}");
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), "").unwrap();
        }
        assert!(has_miri(&root));
        fs::remove_dir_all(&root).unwrap();
    }
}
