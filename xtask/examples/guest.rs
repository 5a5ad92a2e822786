//! The first process of a guest of `cargo xtask kernels`: mounts what the tests need, loads modules, runs the commands
//! of `/commands` one after the other, says how each one ended, and powers off.
//!
//! It runs on nothing but a kernel, this file and what the archive holds. Its words (`guest: …`) are read by
//! `xtask/src/kernels/console.rs`.
#![expect(clippy::print_stdout, reason = "the console is all it has")]

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

/// Type and place of every file system.
const MOUNTS: [(&CStr, &CStr); 5] =
    [(c"proc", c"/proc"), (c"sysfs", c"/sys"), (c"devtmpfs", c"/dev"), (c"bpf", c"/sys/fs/bpf"), (c"tmpfs", c"/tmp")];

fn main() {
    let result = prepare().and_then(|()| work());
    if let Err(error) = result {
        println!("guest: error: {error:#}");
    }
    println!("guest: done");
    // SAFETY: both calls take no pointers. Whoever is not the first process of a machine gets an error.
    unsafe {
        libc::sync();
        if std::process::id() == 1 {
            libc::reboot(libc::LINUX_REBOOT_CMD_POWER_OFF);
        }
    }
}

fn prepare() -> Result<()> {
    for (kind, place) in MOUNTS {
        mount(kind, place).with_context(|| format!("mount {}", place.to_string_lossy()))?;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    println!("guest: kernel {}", release.trim());
    let mut modules: Vec<PathBuf> =
        fs::read_dir("/modules").into_iter().flatten().flatten().map(|e| e.path()).collect();
    modules.sort();
    modules.iter().try_for_each(|module| load_module(module).with_context(|| format!("load {}", module.display())))
}

fn work() -> Result<()> {
    let commands = fs::read_to_string("/commands").context("read /commands")?;
    for line in commands.lines() {
        let mut words = line.split_whitespace();
        let Some(program) = words.next() else { continue };
        println!("guest: run {line}");
        let start = Instant::now();
        let status = Command::new(Path::new("/").join(program))
            .args(words)
            .status()
            .with_context(|| format!("start {program}"))?;
        let end = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        println!("guest: {end} after {} ms", start.elapsed().as_millis());
    }
    Ok(())
}

fn mount(kind: &CStr, place: &CStr) -> io::Result<()> {
    // SAFETY: all strings end with NUL and live through the call; no data is passed.
    let result = unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    match io::Error::last_os_error() {
        // Some kernels mount devtmpfs by themselves.
        error if result != 0 && error.raw_os_error() != Some(libc::EBUSY) => Err(error),
        _ => Ok(()),
    }
}

fn load_module(path: &Path) -> io::Result<()> {
    /// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h.
    const COMPRESSED: libc::c_int = 4;
    let file = File::open(path)?;
    let flags = if path.extension().is_some_and(|extension| extension == "ko") { 0 } else { COMPRESSED };
    // SAFETY: the descriptor is open through the call, and the parameters are an empty string that ends with NUL.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), flags) };
    match io::Error::last_os_error() {
        error if result != 0 && error.raw_os_error() != Some(libc::EEXIST) => Err(error),
        _ => Ok(()),
    }
}
