//! One network namespace: made, entered, deleted.
//!
//! A daemon enters by its network namespace alone: `ip netns exec` would give it a fresh /sys without bpffs.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::process;

/// Where iproute2 keeps the names.
const FOLDER: &str = "/run/netns";

/// A namespace's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace(String);

impl Namespace {
    /// Makes it, with its loopback up and IPv6 addresses usable at once.
    ///
    /// # Errors
    /// `ip` fails: not root, or the name exists.
    pub fn make(name: String) -> Result<Self> {
        process::run("ip", &["netns", "add", &name])?;
        let namespace = Self(name);
        namespace.run("ip", &["link", "set", "lo", "up"])?;
        namespace.sysctl(&[
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
        ])?;
        Ok(namespace)
    }

    /// The namespaces whose names begin with `prefix`.
    #[must_use]
    pub fn named(prefix: &str) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir(FOLDER) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(prefix)).map(Self).collect()
    }

    /// A name without a namespace: whatever enters it fails and says so.
    #[must_use]
    pub(crate) fn unmade(prefix: &str) -> Self {
        Self(format!("{prefix}-none"))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Its file, which holds it open.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(&self.0)
    }

    /// A command that will run inside.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a program inside to its end and returns its standard output.
    ///
    /// # Errors
    /// As [`process::run`].
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let net = format!("--net={}", self.path().display());
        let mut all = vec![net.as_str(), "--", program];
        all.extend_from_slice(arguments);
        process::run("nsenter", &all).with_context(|| format!("{program} {} in {}", arguments.join(" "), self.0))
    }

    /// Runs a program inside with `input` on its standard input.
    ///
    /// # Errors
    /// As [`process::run`].
    pub fn run_with_input(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.command(program);
        command.args(arguments);
        process::run_with_input(command, input).with_context(|| format!("{program} in {}", self.0))
    }

    /// Runs `body` on a thread inside, so that its sockets and its /proc/sys/net are the namespace's.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the body's own error.
    pub fn within<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = self.path();
        let entered = || {
            let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
            // SAFETY: setns takes an open descriptor of a network namespace and changes this thread only.
            let status = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            ensure!(status == 0, "enter {}: {}", path.display(), std::io::Error::last_os_error());
            body()
        };
        std::thread::scope(|scope| scope.spawn(entered).join())
            .map_err(|_| anyhow!("a thread in {} panicked", self.0))?
    }

    /// Writes settings below /proc/sys/net.
    ///
    /// # Errors
    /// One cannot be written; the message names it.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.within(|| {
            settings.iter().try_for_each(|(name, value)| {
                std::fs::write(format!("/proc/sys/net/{name}"), value).with_context(|| format!("set net/{name}"))
            })
        })
    }

    /// Kills what still runs inside and deletes it. Errors are of no use to anybody here.
    pub fn remove(&self) {
        let pids = process::run("ip", &["netns", "pids", &self.0]).unwrap_or_default();
        for pid in pids.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()) {
            // SAFETY: kill has no memory preconditions; the process is inside a namespace that the lab made.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        let _ = process::run("ip", &["netns", "delete", &self.0]);
    }
}
