//! Runs the operator's program at each change of the node's state, with the old and the new state as arguments.
//!
//! Never two at once: what changes while one runs waits, and of several changes the last one counts, so that the
//! program always learns where the node has come to, in order. It is bounded in time; what it says goes to the log. A
//! stop of the daemon is no change of state: the programs go on, and so does the proxy.

use std::{
    io::PipeReader,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use forwarder_common::ids::NodeId;
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use forwarder_core::node::State;

/// How long the last words of a hook that has ended are waited for: a program that it has started may keep its output
/// open.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Longest line of a hook's output that is logged, in bytes.
const LINE: usize = 500;
/// Most lines of one run that are logged.
const LINES: u32 = 100;

/// What to run, and what it is told beside the states.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The program.
    pub(super) path: PathBuf,
    /// How long a run may take.
    pub(super) limit: Duration,
    /// `FORWARDER_NODE`.
    pub(super) node: NodeId,
    /// `FORWARDER_CLUSTER`.
    pub(super) cluster: String,
}

/// How a run has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) old: State,
    pub(super) new: State,
    pub(super) ended: Instant,
    /// Why it counts as failed, with its last words.
    pub(super) failure: Option<String>,
}

/// The program's runs, one after the other.
#[derive(Debug)]
pub(super) struct Hooks {
    wanted: watch::Sender<State>,
    last: watch::Receiver<Option<Run>>,
    task: JoinHandle<()>,
}

impl Hooks {
    /// Nothing is run before the first change from [`State::Joining`]. Call within a tokio runtime.
    pub(super) fn new(settings: Settings) -> Self {
        let (wanted, changes) = watch::channel(State::Joining);
        let (ended, last) = watch::channel(None);
        Self { wanted, last, task: tokio::spawn(follow(settings, changes, ended)) }
    }

    /// The node is in this state now.
    pub(super) fn tell(&self, state: State) {
        self.wanted.send_replace(state);
    }

    /// The last run that has ended.
    pub(super) fn last(&self) -> Option<Run> {
        self.last.borrow().clone()
    }

    /// Waits until the last change is told: as long as two runs may take at most.
    pub(super) async fn finish(self) {
        drop(self.wanted);
        // An error is a task that panicked: it is gone as well.
        let _ = self.task.await;
    }
}

async fn follow(settings: Settings, mut changes: watch::Receiver<State>, ended: watch::Sender<Option<Run>>) {
    let mut old = State::Joining;
    while changes.changed().await.is_ok() {
        let new = *changes.borrow_and_update();
        if new == old {
            continue;
        }
        let start = Instant::now();
        let failure = run(&settings, old, new).await.err().map(|error| format!("{error:#}"));
        let (path, ms) = (settings.path.display(), start.elapsed().as_millis());
        match &failure {
            None => log::info!("{path} {} {}: done in {ms} ms", old.name(), new.name()),
            Some(why) => log::error!("{path} {} {}: {why}, after {ms} ms", old.name(), new.name()),
        }
        ended.send_replace(Some(Run { old, new, ended: Instant::now(), failure }));
        old = new;
    }
}

async fn run(settings: &Settings, old: State, new: State) -> Result<()> {
    let (reader, writer) = std::io::pipe().context("make a pipe for its output")?;
    let mut command = Command::new(&settings.path);
    command
        .args([old.name(), new.name()])
        .env("FORWARDER_NODE", settings.node.number().to_string())
        .env("FORWARDER_CLUSTER", &settings.cluster)
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("make a pipe for its output")?)
        .stderr(writer)
        // So that all that it has started can be ended with it.
        .process_group(0);
    let mut child = command.spawn().context("it cannot be started")?;
    // With it go this side's ends of the pipe for writing.
    drop(command);
    let words = Arc::new(Mutex::new(String::new()));
    let listener = tokio::spawn(listen(reader, Arc::clone(&words)));
    let exit = match timeout(settings.limit, child.wait()).await {
        Ok(exit) => exit.context("wait for its end").map(Some),
        Err(_) => end(&mut child).await.map(|()| None),
    };
    let _ = timeout(LAST_WORDS, listener).await;
    let words = words.lock().unwrap_or_else(PoisonError::into_inner).clone();
    judge(exit?, settings.limit, &words)
}

fn judge(exit: Option<ExitStatus>, limit: Duration, words: &str) -> Result<()> {
    let said = if words.is_empty() { String::new() } else { format!(" ({words})") };
    match exit {
        Some(exit) if exit.success() => Ok(()),
        Some(exit) => match exit.code() {
            Some(code) => anyhow::bail!("it has failed with exit code {code}{said}"),
            None => anyhow::bail!("it was ended by a signal: {exit}{said}"),
        },
        None => anyhow::bail!(
            "it was killed with all that it had started, for it took more than {} s{said}; \
             hint: let it end sooner, or raise `timeout_s` in [hooks]",
            limit.as_secs_f64()
        ),
    }
}

/// Kills a run with all processes of its group.
async fn end(child: &mut Child) -> Result<()> {
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // SAFETY: no memory is touched. The child is not waited for yet, so that its number is nobody else's.
        unsafe { libc::kill(-id, libc::SIGKILL) };
    }
    child.wait().await.context("wait for its end")?;
    Ok(())
}

/// Logs what a run says, to the end of its output, and keeps its last words.
async fn listen(reader: PipeReader, words: Arc<Mutex<String>>) {
    let Ok(mut reader) = pipe::Receiver::from_owned_fd(reader.into()) else { return };
    let (mut buffer, mut line, mut lines) = ([0; 1024], Vec::new(), 0);
    loop {
        let length = reader.read(&mut buffer).await.unwrap_or(0);
        for byte in buffer.get(..length).unwrap_or_default() {
            match byte {
                b'\n' => say(&mut line, &words, &mut lines),
                _ if line.len() < LINE => line.push(*byte),
                _ => {}
            }
        }
        if length == 0 {
            return say(&mut line, &words, &mut lines);
        }
    }
}

fn say(line: &mut Vec<u8>, words: &Mutex<String>, lines: &mut u32) {
    let text = String::from_utf8_lossy(line).trim().to_owned();
    line.clear();
    if text.is_empty() {
        return;
    }
    *lines += 1;
    if *lines <= LINES {
        log::info!("hook: {text}");
    }
    *words.lock().unwrap_or_else(PoisonError::into_inner) = text;
}

#[cfg(test)]
mod tests;
