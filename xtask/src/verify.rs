//! `cargo xtask verify`: what the kernel's verifier says of each program, and the record of it.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::project::Project;
use crate::run::{SEE_ABOVE, run_seen, say};

/// Where the numbers are recorded that `forwarder/examples/verify.rs` compares with.
const BUDGET: &str = "forwarder-ebpf/budget.toml";

/// One program's line in the output of `forwarder/examples/verify.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) name: String,
    /// Instructions that the verifier walked.
    pub(crate) instructions: u32,
    /// Bytes of stack.
    pub(crate) stack: u32,
}

/// Loads all programs into the running kernel; with `record` the numbers become those to compare with.
pub(crate) fn verify(project: &Project, record_it: bool) -> Result<()> {
    say("verify");
    let mut cargo = project.cargo();
    cargo.args(["run", "--release", "--package", "forwarder", "--example", "verify"]);
    if record_it {
        cargo.args(["--", "--record"]);
    }
    let mut output = String::new();
    let status = run_seen(&mut cargo, |line| output += line)?;
    if !status.success() {
        bail!("verify: {status}; hint: {SEE_ABOVE}");
    }
    if record_it { record(project, &[(running()?, programs(&output))]) } else { Ok(()) }
}

/// The running kernel's release.
pub(crate) fn running() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    Ok(release.trim().to_owned())
}

/// The programs in the output of the example: lines of a name and four numbers.
pub(crate) fn programs(output: &str) -> Vec<Program> {
    output.lines().filter_map(program).collect()
}

fn program(line: &str) -> Option<Program> {
    let [name, instructions, stack, translated, jited] = line.split_whitespace().collect::<Vec<_>>()[..] else {
        return None;
    };
    translated.parse::<u32>().and(jited.parse::<u32>()).ok()?;
    Some(Program { name: name.to_owned(), instructions: instructions.parse().ok()?, stack: stack.parse().ok()? })
}

/// Writes the numbers of these kernels, by release, in place of what was recorded for them.
pub(crate) fn record(project: &Project, kernels: &[(String, Vec<Program>)]) -> Result<()> {
    let file = project.root().join(BUDGET);
    let mut text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    for (release, programs) in kernels.iter().filter(|(_, programs)| !programs.is_empty()) {
        text = with_section(&text, &series(release), programs);
        say(format_args!("recorded Linux {} in {BUDGET}", series(release)));
    }
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))
}

/// Major and minor version of a release such as `6.1.0-50-amd64`.
fn series(release: &str) -> String {
    release.split(|c: char| !c.is_ascii_digit()).take(2).collect::<Vec<_>>().join(".")
}

/// The record with one kernel's section replaced or added, oldest kernel first.
fn with_section(text: &str, kernel: &str, programs: &[Program]) -> String {
    let mut parts = text.split("\n[\"");
    let head = parts.next().unwrap_or_default().trim_end();
    let mut sections: Vec<(&str, String)> = parts
        .filter_map(|part| part.split_once("\"]\n"))
        .filter(|(name, _)| *name != kernel)
        .map(|(name, lines)| (name, lines.trim_end().to_owned()))
        .collect();
    let lines: Vec<_> = programs.iter().map(|program| format!("{} = {}", program.name, program.instructions)).collect();
    sections.push((kernel, lines.join("\n")));
    sections.sort_by_key(|(name, _)| name.split('.').map(|number| number.parse().unwrap_or(0)).collect::<Vec<u32>>());
    let mut text = format!("{head}\n");
    for (name, lines) in sections {
        let _ = write!(text, "\n[\"{name}\"]\n{lines}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, instructions: u32) -> Program {
        Program { name: name.into(), instructions, stack: 0 }
    }

    #[test]
    fn programs_are_the_lines_of_a_name_and_four_numbers() {
        let output = "program instructions stack bytecode machine\nforwarder_egress 12345 104 9000 5000\n\n\
            stack in bytes of the functions that they call:\nscan_step 64\nof 1 2 many words\n";
        let expected = Program { name: "forwarder_egress".into(), instructions: 12345, stack: 104 };
        assert_eq!(programs(output), [expected]);
    }

    #[test]
    fn a_kernels_record_is_replaced_and_the_others_stay() {
        let before = "# Why.\n# And how.\n\n[\"6.1\"]\na = 1\ngone = 2\n\n[\"6.18\"]\na = 3\n";
        let after = with_section(before, "6.1", &[of("a", 10), of("b", 20)]);
        assert_eq!(after, "# Why.\n# And how.\n\n[\"6.1\"]\na = 10\nb = 20\n\n[\"6.18\"]\na = 3\n");
        assert_eq!(with_section(&after, "6.1", &[of("a", 10), of("b", 20)]), after);
    }

    #[test]
    fn kernels_are_recorded_oldest_first() {
        let text = with_section("# Why.\n", &series("6.18.44-fc"), &[of("a", 1)]);
        let text = with_section(&text, &series("6.1.0-50-amd64"), &[of("a", 2)]);
        let text = with_section(&text, &series("6.12.118+deb13"), &[of("a", 3)]);
        let names: Vec<_> = text.lines().filter(|line| line.starts_with('[')).collect();
        assert_eq!(names, ["[\"6.1\"]", "[\"6.12\"]", "[\"6.18\"]"]);
    }
}
