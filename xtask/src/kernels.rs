//! `cargo xtask kernels`: kernels of Debian's in emulated machines, beside the running one.
//!
//! On each supported one every program goes through the verifier, golden packets run through it, packets are injected,
//! and it is attached to an interface; one that is too old must be refused. What a guest does is in
//! `xtask/examples/guest.rs`.

mod console;
mod cpio;
mod image;
mod machine;
mod packages;
mod programs;

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::pins::{self, Kernel};
use crate::project::{Project, find_command};
use crate::run::{SEE_ABOVE, say};
use crate::verify::{self, Program};

use console::{Step, Story};
use image::Contents;
use machine::Emulator;

/// A guest that takes longer hangs; the slowest needs a third of it here.
const LIMIT: Duration = Duration::from_secs(900);
/// What the daemon says of a kernel that is too old.
const REFUSAL: &str = "it is too old; hint: Linux ";
/// Lines of a failed command's output that are shown.
const TAIL: usize = 40;

/// A kernel, what became of it, and what is wrong with that.
struct Verdict {
    whose: &'static str,
    story: Story,
    complaint: Option<String>,
}

impl Verdict {
    fn name(&self) -> String {
        format!("{} ({})", self.story.name(), self.whose)
    }
}

/// Tries all kernels, the emulated ones at once; with `update` the newest packages of theirs, and with `record` the
/// numbers become those to compare with.
pub(crate) fn kernels(project: &Project, update: bool, record: bool) -> Result<()> {
    let folder = project.tools().join("kernels");
    let emulator = emulator(project, &folder)?;
    let mut packages = Vec::new();
    for kernel in &pins::KERNELS {
        packages.push(packages::kernel(project, &folder, kernel, update)?);
    }
    let (supported, too_old) = programs::build(project, record)?;
    let story = natively(&supported)?;
    let mut verdicts = vec![Verdict { whose: "running", complaint: story.complaint(), story }];
    thread::scope(|scope| {
        // A guest keeps one processor busy, and hardly more.
        let start = |(kernel, package): (&'static Kernel, &PathBuf)| {
            let contents = if kernel.supported { &supported } else { &too_old };
            let (emulator, package) = (&emulator, package.clone());
            scope.spawn(move || guest(project, emulator, contents, kernel, &package))
        };
        let guests: Vec<_> = pins::KERNELS.iter().zip(&packages).map(start).collect();
        for verdict in guests.into_iter().map(ScopedJoinHandle::join) {
            verdicts.push(verdict.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let numbers = numbers(&verdicts);
    report(&verdicts, &numbers)?;
    if record { verify::record(project, &numbers) } else { Ok(()) }
}

/// What each kernel's verifier walked, by release.
fn numbers(verdicts: &[Verdict]) -> Vec<(String, Vec<Program>)> {
    let all = verdicts
        .iter()
        .map(|verdict| (verdict.story.name(), verify::programs(&verdict.story.output_of(programs::VERIFY))));
    all.filter(|(_, programs)| !programs.is_empty()).collect()
}

/// QEMU: the host's, or Debian's package, unpacked.
fn emulator(project: &Project, folder: &Path) -> Result<Emulator> {
    if env::consts::ARCH != "x86_64" {
        bail!("emulate a machine: only x86_64 is known here; hint: run it on such a machine");
    }
    let (program, package) = pins::EMULATOR;
    if let Some(program) = find_command(program) {
        return Ok(Emulator { program, root: None });
    }
    let root = folder.join("qemu");
    packages::tool(project, &root, package)?;
    Ok(Emulator { program: root.join("usr/bin").join(program), root: Some(root) })
}

/// The story of the running kernel, without a machine around it.
fn natively(contents: &Contents) -> Result<Story> {
    let release = verify::running()?;
    say(format_args!("the running kernel, {release}"));
    let mut story = Story { release: Some(release), done: true, ..Story::default() };
    for program in &contents.programs {
        let start = Instant::now();
        let mut command = Command::new(&program.file);
        let output = command.args(program.arguments).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("start {}", program.file.display()))?;
        let lines = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let code = output.status.code().map_or_else(|| output.status.to_string(), |code| format!("exit {code}"));
        story.steps.push(Step {
            command: program.command(),
            lines: lines.iter().flat_map(|text| text.lines()).map(String::from).collect(),
            end: Some(format!("{code} after {} ms", start.elapsed().as_millis())),
        });
    }
    Ok(story)
}

/// The story of a guest with a kernel whose package is unpacked.
fn guest(
    project: &Project,
    emulator: &Emulator,
    contents: &Contents,
    kernel: &Kernel,
    package: &Path,
) -> Result<Verdict> {
    let suite = kernel.suite;
    let scratch = project.target().join("kernels").join(suite);
    fs::create_dir_all(&scratch).with_context(|| format!("make {}", scratch.display()))?;
    let archive = scratch.join("archive.cpio");
    let bytes = image::write(contents, package, &scratch)?;
    fs::write(&archive, &bytes).with_context(|| format!("write {}", archive.display()))?;
    let log = project.log(&format!("kernels-{suite}"))?;
    say(format_args!("boot {suite}'s kernel with an archive of {} MiB; console: {}", bytes.len() >> 20, log.display()));
    let mut console = File::create(&log).context("create the console's log")?;
    let mut story = Story::default();
    let booted = machine::boot(emulator, &machine::kernel_file(package)?, &archive, LIMIT, |line| {
        // What is lost of the log is not lost of the story.
        let _ = writeln!(console, "{line}");
        if let Some(word) = story.see(line) {
            say(format_args!("  {suite}: {word}"));
        }
    });
    if let Err(error) = booted {
        story.errors.push(format!("{error:#}"));
    }
    let complaint =
        if kernel.supported { story.complaint() } else { story.complaint_of_refusal(programs::DAEMON, REFUSAL) };
    Ok(Verdict { whose: suite, story, complaint })
}

/// A table of instructions by program and kernel, then what became of each kernel.
fn report(verdicts: &[Verdict], numbers: &[(String, Vec<Program>)]) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}\n", table(numbers))?;
    for verdict in verdicts {
        let times: Vec<_> = verdict.story.steps.iter().filter_map(Step::summary).collect();
        let passed = verdict.story.tests().passed;
        let end = match &verdict.complaint {
            None if passed == 0 => "refused, as it must be".to_owned(),
            None => format!("{passed} tests passed"),
            Some(complaint) => format!("FAILED: {complaint}"),
        };
        writeln!(out, "{}: {end} ({})", verdict.name(), times.join(", "))?;
        if verdict.complaint.is_some() {
            for line in verdict.story.last_words(TAIL) {
                writeln!(out, "    | {line}")?;
            }
        }
    }
    let failed: Vec<_> = verdicts.iter().filter(|one| one.complaint.is_some()).map(Verdict::name).collect();
    if failed.is_empty() { Ok(()) } else { bail!("pass on {}; hint: {SEE_ABOVE}", failed.join(" and ")) }
}

/// Rows of programs, columns of kernels, and the stack, which is the same on all of them.
fn table(columns: &[(String, Vec<Program>)]) -> String {
    let mut text = format!("{:<20} {:>8}", "verified", "stack");
    for (name, _) in columns {
        let _ = write!(text, " {:>24}", name.chars().take(24).collect::<String>());
    }
    let longest = columns.iter().map(|(_, programs)| programs).max_by_key(|programs| programs.len());
    for program in longest.into_iter().flatten() {
        let _ = write!(text, "\n{:<20} {:>8}", program.name, program.stack);
        for (_, programs) in columns {
            let here = programs.iter().find(|other| other.name == program.name);
            let cell = here.map_or_else(|| "-".to_owned(), |program| program.instructions.to_string());
            let _ = write!(text, " {cell:>24}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_a_kernel_did_not_load_is_a_dash_in_its_column() {
        let program = |instructions| Program { name: "ingress".into(), instructions, stack: 88 };
        let text = table(&[("6.1".into(), Vec::new()), ("6.18".into(), vec![program(700)])]);
        let row: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["ingress", "88", "-", "700"]);
    }
}
