//! `cargo xtask fuzz`: bytes that libFuzzer makes up, against all that reads what comes from the network.
//!
//! The stable compiler counts coverage as `cargo fuzz` has it do; AddressSanitizer is left out, for it needs a nightly
//! and what is fuzzed has no unsafe code of its own. What was learnt lies in the target directory and is used again;
//! with `--keep` the fewest inputs that reach as much are put into `fuzz/corpus`, which the tests play.

use std::env;
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::pins;
use crate::project::{Project, find_command, is_root};
use crate::run::{SEE_ABOVE, attempt, output, run, say};

/// What is fuzzed; CONTRIBUTING.md says what each one asserts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// The two readers of SIP agree
    Readers,
    /// Packets and the tunnel
    Frames,
    /// Scripts for a node of the cluster
    Node,
    /// Scripts for the slow path
    Slowpath,
    /// Messages between daemons
    Wire,
    /// Fragments in any order
    Reassembly,
    /// Datagrams at the tunnel's socket
    Tunnel,
    /// Files with packets in them
    Captures,
    /// The configuration file
    Configuration,
    /// Lines at the control socket
    Control,
    /// Whole packets through the loaded programs, as root
    Packets,
}

/// Coverage counters as `cargo fuzz` asks for them.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-sanitizer-coverage-stack-depth",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
];
/// Bounds of one input: bytes of it, seconds and MiB that it may take.
const BOUNDS: [&str; 3] = ["-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"];
/// Characters of a panic's first line that are shown: it may hold the whole input.
const FIRST_WORDS: usize = 120;
/// What libFuzzer says before the file with an input that it found.
const FOUND: &str = "Test unit written to ";

/// Fuzzes one target, or each in turn, for so many seconds; with `keep` their corpora in the repository are made anew.
pub(crate) fn fuzz(project: &Project, target: Option<Target>, seconds: u32, keep: bool) -> Result<()> {
    let mut targets = target.map_or(Target::value_variants().to_vec(), |target| vec![target]);
    if !is_root() {
        if target == Some(Target::Packets) {
            bail!("fuzz packets: not root, so the programs cannot be loaded; hint: run the same command as root");
        }
        if targets.contains(&Target::Packets) {
            say("SKIPPED fuzz packets: not root, so the programs cannot be loaded");
        }
        targets.retain(|target| *target != Target::Packets);
    }
    let built = build(project, &targets)?;
    for target in targets {
        let program = built.join(target.to_string());
        one(project, target, &program, seconds)?;
        if keep {
            self::keep(project, target, &program)?;
        }
    }
    Ok(())
}

/// Clippy of the targets, which needs no C++ compiler.
pub(crate) fn lint(project: &Project) -> Result<()> {
    let mut clippy = project.cargo();
    clippy.args(["clippy", "--no-default-features", "--all-targets", "--manifest-path"]);
    clippy.arg(manifest(project)).args(["--", "-D", "warnings"]);
    run("clippy of the fuzz targets", SEE_ABOVE, &mut clippy)
}

/// Builds the targets; where they lie.
fn build(project: &Project, targets: &[Target]) -> Result<PathBuf> {
    let (compiler, package) = pins::CPP;
    if env::var_os("CXX").is_none() && find_command(compiler).is_none() {
        bail!("build libFuzzer: no C++ compiler; hint: as root, run `apt-get install {package}`");
    }
    // With a target named, build scripts and macros are built without the flags.
    let version = output(project.cargo().arg("-vV")).context("ask cargo for its version; hint: is it installed?")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("find this machine's target in what `cargo -vV` says; hint: use a cargo of rustup's")?;
    let directory = project.target().join("fuzz/build");
    let mut cargo = project.cargo();
    cargo.args(["build", "--release", "--target", host, "--manifest-path"]).arg(manifest(project));
    cargo.arg("--target-dir").arg(&directory).env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    for target in targets {
        cargo.args(["--bin", &target.to_string()]);
    }
    run("build the fuzz targets", SEE_ABOVE, &mut cargo)?;
    Ok(directory.join(host).join("release"))
}

fn one(project: &Project, target: Target, program: &Path, seconds: u32) -> Result<()> {
    let place = project.target().join("fuzz");
    let corpus = directory(place.join("corpus").join(target.to_string()))?;
    // What was found before is tried first.
    let artifacts = directory(place.join("artifacts").join(target.to_string()))?;
    let mut command = Command::new(program);
    command.arg(&corpus).arg(&artifacts).arg(directory(kept(project, target))?).args(seeds(project, target));
    if let Some(dictionary) = target.dictionary() {
        command.arg(format!("-dict={}", project.root().join("fuzz").join(dictionary).display()));
    }
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.arg(format!("-max_total_time={seconds}")).args(BOUNDS).arg("-print_final_stats=1");
    let log = project.log(&format!("fuzz-{target}"))?;
    let result = attempt(&format!("fuzz {target} for {seconds} s"), &log, None, &mut command);
    let said = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    let said = String::from_utf8_lossy(&said);
    let said = said.as_ref();
    if let Some(file) = said.lines().find_map(|line| Some(line.split_once(FOUND)?.1)) {
        let why = failure(said).map_or(String::new(), |why| format!(" ({why})"));
        bail!("fuzz {target}: {file} makes it fail{why}; hint: `{} {file}` shows it again", program.display());
    }
    result?;
    writeln!(io::stdout(), "fuzz {target}: {}, nothing found", Effort::of(said)).context("write the summary")
}

/// The messages that tests read as well; they lie outside the project.
fn seeds(project: &Project, target: Target) -> Option<PathBuf> {
    let messages =
        env::var_os("FORWARDER_CORPUS").map_or_else(|| project.root().join("../shared/corpus"), PathBuf::from);
    if target.is_sip() && !messages.is_dir() {
        say(format_args!("fuzz {target} without seeds: no corpus; hint: name its folder in FORWARDER_CORPUS"));
    }
    (target.is_sip() && messages.is_dir()).then_some(messages)
}

/// The inputs of a target that are in the repository.
fn kept(project: &Project, target: Target) -> PathBuf {
    project.root().join("fuzz/corpus").join(target.to_string())
}

/// Replaces them by the fewest of them, of what was learnt and of the seeds that together reach as much of the code.
fn keep(project: &Project, target: Target, program: &Path) -> Result<()> {
    let (place, kept) = (project.target().join("fuzz"), kept(project, target));
    let fewest = place.join("fewest").join(target.to_string());
    if fewest.exists() {
        fs::remove_dir_all(&fewest).with_context(|| format!("remove {}", fewest.display()))?;
    }
    let mut command = Command::new(program);
    command.arg("-set_cover_merge=1").args(BOUNDS);
    // How often a line runs is no reason to keep an input.
    command.arg("-use_counters=0").arg(directory(fewest.clone())?).arg(&kept);
    command.args(["corpus", "artifacts"].map(|from| place.join(from).join(target.to_string())));
    command.args(seeds(project, target));
    attempt(
        &format!("keep the fewest inputs of {target}"),
        &project.log(&format!("keep-{target}"))?,
        None,
        &mut command,
    )?;
    fs::remove_dir_all(&kept).with_context(|| format!("remove {}", kept.display()))?;
    let (mut inputs, mut bytes) = (0, 0);
    for input in fs::read_dir(&fewest).with_context(|| format!("read {}", fewest.display()))?.flatten() {
        let to = directory(kept.clone())?.join(input.file_name());
        bytes += fs::copy(input.path(), &to).with_context(|| format!("write {}", to.display()))?;
        inputs += 1;
    }
    say(format_args!("fuzz/corpus/{target}: {inputs} inputs, {bytes} bytes"));
    Ok(())
}

fn directory(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    Ok(path)
}

/// The manifest of the crate, which is no member of the workspace.
pub(crate) fn manifest(project: &Project) -> PathBuf {
    project.root().join("fuzz/Cargo.toml")
}

/// What the target said when it failed: a panic's place and first line, or libFuzzer's own word.
fn failure(said: &str) -> Option<String> {
    let mut lines = said.lines();
    let place = lines.by_ref().find_map(|line| line.split_once("panicked at ").map(|(_, place)| place));
    if let Some(place) = place {
        let why: String = lines.next().unwrap_or_default().chars().take(FIRST_WORDS).collect();
        return Some(format!("panic at {place} {why}"));
    }
    let word = said.lines().find_map(|line| line.split_once("ERROR: libFuzzer: ").map(|(_, word)| word));
    word.map(String::from)
}

/// What libFuzzer says that it did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Effort<'a> {
    inputs: &'a str,
    first: &'a str,
    last: &'a str,
}

impl<'a> Effort<'a> {
    fn of(said: &'a str) -> Self {
        let mut effort = Self::default();
        for line in said.lines() {
            if let Some(inputs) = line.strip_prefix("stat::number_of_executed_units:") {
                effort.inputs = inputs.trim();
            }
            let mut words = line.split_whitespace().skip_while(|word| *word != "cov:");
            if let Some(coverage) = words.nth(1) {
                effort.last = coverage;
                if line.contains("INITED") {
                    effort.first = coverage;
                }
            }
        }
        effort
    }
}

impl fmt::Display for Effort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} inputs, coverage {} at first and {} at last", self.inputs, self.first, self.last)
    }
}

impl Target {
    /// Whether it reads SIP.
    fn is_sip(self) -> bool {
        matches!(self, Self::Readers | Self::Slowpath)
    }

    /// Pieces of what it reads, if their place matters: a file in `fuzz`.
    fn dictionary(self) -> Option<&'static str> {
        match self {
            Self::Readers | Self::Slowpath => Some("sip.dict"),
            Self::Configuration => Some("configuration.dict"),
            Self::Control => Some("control.dict"),
            Self::Frames
            | Self::Node
            | Self::Wire
            | Self::Reassembly
            | Self::Tunnel
            | Self::Captures
            | Self::Packets => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Readers => "readers",
            Self::Frames => "frames",
            Self::Node => "node",
            Self::Slowpath => "slowpath",
            Self::Wire => "wire",
            Self::Reassembly => "reassembly",
            Self::Tunnel => "tunnel",
            Self::Captures => "captures",
            Self::Configuration => "configuration",
            Self::Control => "control",
            Self::Packets => "packets",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effort_is_read_from_what_the_fuzzer_says() {
        let said = "#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 30Mb\n\
            #977\tNEW    cov: 40 ft: 51 corp: 9/1Kb lim: 4 exec/s: 0 rss: 30Mb L: 3/4 MS: 1 InsertByte-\n\
            stat::number_of_executed_units: 123456\n";
        assert_eq!(Effort::of(said), Effort { inputs: "123456", first: "12", last: "40" });
    }

    #[test]
    fn a_failure_is_named_by_its_panic_else_by_the_fuzzer() {
        let panic = "thread '<unnamed>' (7) panicked at fuzz_targets/readers.rs:9:5:\nthey differ\n\
            ==7== ERROR: libFuzzer: deadly signal\n";
        assert_eq!(failure(panic).unwrap(), "panic at fuzz_targets/readers.rs:9:5: they differ");
        assert_eq!(failure("==7== ERROR: libFuzzer: timeout after 11 seconds\n").unwrap(), "timeout after 11 seconds");
        assert_eq!(failure("Done 9 runs in 1 second(s)\n"), None);
    }
}
