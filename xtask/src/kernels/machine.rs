//! One emulated machine: boots a kernel with an archive, reads its console, and ends it when its time is over.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// QEMU's program and how to start it.
pub(super) struct Emulator {
    /// Its file.
    pub(super) program: PathBuf,
    /// Where it is unpacked, if it is not installed: its libraries and firmware are below.
    pub(super) root: Option<PathBuf>,
}

/// Memory of a guest, in MiB: the archive, and a few maps.
const MEMORY: &str = "1024";
/// `console`: where it speaks; `panic=-1`: a panic ends it at once; `quiet`: without the kernel's own story.
const KERNEL_LINE: &str = "console=ttyS0 panic=-1 quiet";

/// Boots `kernel` and hands each line of its console to `see`.
pub(super) fn boot(
    emulator: &Emulator,
    kernel: &Path,
    archive: &Path,
    limit: Duration,
    mut see: impl FnMut(&str),
) -> Result<()> {
    let mut command = emulator.command();
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(archive).args(["-append", KERNEL_LINE]);
    let mut child = Guard(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("start {}", emulator.program.display()))?,
    );
    let console = child.0.stdout.take().context("read the guest's console")?;
    let (lines, arriving) = mpsc::channel();
    // A read cannot be given a limit; the thread ends with the console.
    thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if lines.send(text).is_err() {
                break;
            }
        }
    });
    let end = Instant::now() + limit;
    loop {
        match arriving.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => see(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => bail!("boot {}: gave up after {} s", kernel.display(), limit.as_secs()),
        }
    }
    let status = child.0.wait().context("wait for the emulator")?;
    if status.success() { Ok(()) } else { bail!("run {}: {status}", emulator.program.display()) }
}

impl Emulator {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_remove("LD_LIBRARY_PATH");
        if let Some(root) = &self.root {
            let libraries = |folder: &str| root.join(folder).join(format!("{}-linux-gnu", env::consts::ARCH));
            // Before Debian 13 packages use both, though they are one on a host.
            let both = format!("{}:{}", libraries("usr/lib").display(), libraries("lib").display());
            command.env("LD_LIBRARY_PATH", both);
            for firmware in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(firmware));
            }
        }
        // No network, no disk: the archive is all that goes in and the console all that comes out.
        command.args(["-machine", "pc", "-cpu", "max", "-smp", "2", "-m", MEMORY]);
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
        ]);
        command
    }
}

/// Ends the emulator with this program's way out, whichever it is.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The kernel's file in its unpacked package.
pub(super) fn kernel_file(package: &Path) -> Result<PathBuf> {
    let boot = package.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| format!("read {}", boot.display()))?;
    let mut names = entries.flatten().map(|entry| entry.path());
    names
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
        .with_context(|| format!("find a kernel in {}", boot.display()))
}
