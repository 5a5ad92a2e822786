//! Programs that run inside a namespace, each in a process group of its own that ends with its value.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::poll::poll_until;

/// How long a process may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// A running program. Dropping it kills its whole process group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with its output in `log`; `name` stands in messages.
    ///
    /// # Errors
    /// The log cannot be written or the program not be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file =
            File::options().create(true).append(true).open(log).with_context(|| format!("write {}", log.display()))?;
        let errors = file.try_clone().with_context(|| format!("write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { child, name: name.to_owned(), log: log.to_owned(), ended: None })
    }

    /// Its process id, which is also its group's.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file of what it prints.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What it has printed so far.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().with_context(|| format!("wait for {}", self.name))?;
        }
        Ok(self.ended)
    }

    /// Fails with what the program printed last if it has ended.
    ///
    /// # Errors
    /// It has ended.
    pub fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            let output = self.output();
            let tail: Vec<&str> = output.lines().rev().take(15).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!("{} ended early ({status}):\n{}", self.name, tail.join("\n"));
        }
        Ok(())
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It still runs past `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        poll_until(&what, deadline, || self.ended())
    }

    /// Sends `signal` to its group.
    pub fn signal(&self, signal: i32) {
        if self.ended.is_none()
            && let Ok(group) = i32::try_from(self.child.id())
        {
            // SAFETY: kill has no memory preconditions; the group is this process's own and not yet reaped.
            unsafe { libc::kill(-group, signal) };
        }
    }

    /// Ends it with SIGTERM, and with SIGKILL where that is not enough.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.stop_with(libc::SIGTERM)
    }

    /// Ends it with `signal`, and with SIGKILL where that is not enough.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub fn stop_with(&mut self, signal: i32) -> Result<ExitStatus> {
        self.signal(signal);
        if let Ok(status) = self.wait(GRACE) {
            return Ok(status);
        }
        self.signal(libc::SIGKILL);
        self.wait(GRACE)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
        // Reaps it; a process that has ended already is no error here.
        let _ = self.child.wait();
    }
}

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// It cannot be started or fails; the message holds its standard error.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {program}; hint: `cargo xtask setup` installs it"))?;
    text_of(program, &output)
}

/// Runs a program to its end with `input` on its standard input and returns its standard output.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(mut command: Command, input: &str) -> Result<String> {
    use std::io::Write as _;
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("run {name}; hint: `cargo xtask setup` installs it"))?;
    let mut pipe = child.stdin.take().with_context(|| format!("write to {name}"))?;
    pipe.write_all(input.as_bytes()).with_context(|| format!("write to {name}"))?;
    drop(pipe);
    let output = child.wait_with_output().with_context(|| format!("wait for {name}"))?;
    text_of(&name, &output)
}

fn text_of(program: &str, output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!("{program} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
