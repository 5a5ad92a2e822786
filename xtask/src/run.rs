//! Running other programs: what is said meanwhile, and one sentence when they fail.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Silence longer than this makes a person wonder.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often a quiet command is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Characters of a quiet command's last line that are shown meanwhile.
const LAST_WORDS: usize = 90;
/// Lines of a failed command's output that are shown.
const TAIL_LINES: usize = 20;

/// Says one line, with the seconds since the start.
pub(crate) fn say(line: impl Display) {
    eprintln!("[{:>4} s] {line}", START.elapsed().as_secs());
}

/// What to do about a command that has said itself what is wrong.
pub(crate) const SEE_ABOVE: &str = "the lines above say why";

/// Runs a command whose output is the user's to see; `hint` is said if it fails.
pub(crate) fn run(what: &str, hint: &str, command: &mut Command) -> Result<()> {
    say(what);
    let status = command.stdin(Stdio::null()).status().with_context(|| cannot_start(command))?;
    if status.success() { Ok(()) } else { bail!("{what}: {status}; hint: {hint}") }
}

/// Runs a command with its output in a file, says every few seconds that it is still at it, and shows the end of the
/// output if it fails.
pub(crate) fn run_logged(what: &str, log: &Path, command: &mut Command) -> Result<()> {
    let result = attempt(what, log, None, command);
    if result.is_err() {
        for line in tail(log) {
            eprintln!("         | {line}");
        }
    }
    result
}

/// The same for what may fail or take longer than `limit`: then the caller has another way.
pub(crate) fn attempt(what: &str, log: &Path, limit: Option<Duration>, command: &mut Command) -> Result<()> {
    say(what);
    let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let copy = file.try_clone().with_context(|| format!("open {}", log.display()))?;
    let mut child =
        command.stdin(Stdio::null()).stdout(file).stderr(copy).spawn().with_context(|| cannot_start(command))?;
    let start = Instant::now();
    let mut next_word = HEARTBEAT;
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("wait for: {what}"))? {
            break status;
        }
        let elapsed = start.elapsed();
        if limit.is_some_and(|limit| elapsed > limit) {
            child.kill().with_context(|| format!("end: {what}"))?;
            child.wait().with_context(|| format!("end: {what}"))?;
            bail!("{what}: gave up after {} s", elapsed.as_secs());
        }
        if elapsed > next_word {
            let last = last_line(log).unwrap_or_default();
            say(format_args!("… {}", last.chars().take(LAST_WORDS).collect::<String>()));
            next_word += HEARTBEAT;
        }
        thread::sleep(POLL);
    };
    if status.success() { Ok(()) } else { bail!("{what}: {status}; hint: its output is in {}", log.display()) }
}

/// Runs a command silently; its standard output if it succeeds.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command whose output is shown as it comes and read by `see` too, line by line.
pub(crate) fn run_seen(command: &mut Command, mut see: impl FnMut(&str)) -> Result<ExitStatus> {
    let (reader, writer) = io::pipe().context("make a pipe")?;
    let copy = writer.try_clone().context("make a pipe")?;
    let mut child =
        command.stdin(Stdio::null()).stdout(writer).stderr(copy).spawn().with_context(|| cannot_start(command))?;
    // The command holds the pipe's other end; the pipe ends only when no one does.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut lines = BufReader::new(reader);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).context("read a command's output")? > 0 {
        io::stdout().write_all(&line).context("write the output")?;
        see(&String::from_utf8_lossy(&line));
        line.clear();
    }
    child.wait().context("wait for a command")
}

/// Becomes the command, so that Ctrl-C reaches it and nothing is left waiting above it.
pub(crate) fn become_command(command: &mut Command) -> anyhow::Error {
    anyhow!(command.exec()).context(cannot_start(command))
}

/// The last line of a log that says something.
pub(crate) fn last_line(log: &Path) -> Option<String> {
    tail(log).into_iter().rev().find(|line| !line.trim().is_empty())
}

fn tail(log: &Path) -> Vec<String> {
    let mut bytes = Vec::new();
    if File::open(log).and_then(|mut file| file.read_to_end(&mut bytes)).is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().map(String::from).collect();
    let skip = lines.len().saturating_sub(TAIL_LINES);
    lines.into_iter().skip(skip).collect()
}

fn cannot_start(command: &Command) -> String {
    format!("start {}; hint: is it installed?", command.get_program().display())
}

/// Copies a file only if the bytes differ, so that what depends on it is not built again for nothing.
pub(crate) fn copy_if_changed(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    fs::write(to, new).with_context(|| format!("write {}", to.display()))?;
    Ok(true)
}
