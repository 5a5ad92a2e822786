//! `cargo xtask test`: all tests, and one line that sums them up.

use std::io::{self, Write as _};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::ebpf;
use crate::project::{Project, is_root};
use crate::run::{run_seen, say};

/// What cargo test's closing lines add up to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    /// Takes one line of output: a closing line of cargo's, or a test's own word that it skipped something.
    pub(crate) fn see(&mut self, line: &str) {
        if line.starts_with("SKIPPED") {
            self.skipped += 1;
            return;
        }
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        let Some((_, counts)) = rest.split_once(". ") else { return };
        for part in counts.split(';') {
            let mut words = part.split_whitespace();
            let Some(number) = words.next().and_then(|word| word.parse::<u64>().ok()) else { continue };
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                Some("ignored") => self.skipped += number,
                _ => {}
            }
        }
    }
}

/// Runs the tests whose name holds `filter`; `lab` includes those in network namespaces. `counts` holds what was
/// skipped before.
pub(crate) fn test(project: &Project, filter: Option<&str>, lab: bool, mut counts: Counts) -> Result<()> {
    if lab && !is_root() {
        bail!("run the namespace tests: not root; hint: run it as root, or leave them out with `--no-lab`");
    }
    let mut broken = Vec::new();
    say("unit, property and golden packet tests");
    let mut cargo = cargo_test(project);
    cargo.args(["--workspace", "--exclude", "tests"]).args(filter);
    if !group(&mut cargo, &mut counts)? {
        broken.push("the tests of the crates");
    }
    if lab {
        say("namespace tests");
        let mut cargo = cargo_test(project);
        // Two labs at a time, as many as there may be: most of them wait for SIP's timers. What floods has the machine
        // for itself.
        cargo.args(["--package", "tests"]).args(filter).args(["--", "--test-threads=2"]);
        if !group(&mut cargo, &mut counts)? {
            broken.push("the namespace tests");
        }
    } else {
        say("SKIPPED the namespace tests: --no-lab");
        counts.skipped += 1;
    }
    let Counts { passed, failed, skipped } = counts;
    say("done");
    writeln!(io::stdout(), "tests: {passed} passed, {failed} failed, {skipped} skipped")
        .context("write the summary")?;
    if !broken.is_empty() {
        bail!("pass {}; hint: what failed is named above", broken.join(" and "));
    }
    if passed == 0 {
        bail!(
            "find a test{}; hint: the filter is a part of a test's name",
            filter.map_or(String::new(), |f| format!(" named like `{f}`"))
        );
    }
    Ok(())
}

fn cargo_test(project: &Project) -> Command {
    let mut cargo = project.cargo();
    cargo.args(["test", "--no-fail-fast"]).env("FORWARDER_BIN", project.forwarder());
    cargo.env("FORWARDER_YARDSTICKS", ebpf::yardsticks(project));
    cargo
}

fn group(command: &mut Command, counts: &mut Counts) -> Result<bool> {
    Ok(run_seen(command, |line| counts.see(line))?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_added_up() {
        let mut counts = Counts::default();
        counts.see("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.02s\n");
        counts.see("test a_thing ... ok\n");
        counts.see("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s");
        assert_eq!(counts, Counts { passed: 14, failed: 1, skipped: 1 });
    }

    #[test]
    fn a_test_that_says_it_skipped_is_counted() {
        let mut counts = Counts::default();
        counts.see("SKIPPED the corpus: its folder is absent\n");
        counts.see("nothing SKIPPED here\n");
        assert_eq!(counts, Counts { passed: 0, failed: 0, skipped: 1 });
    }
}
