//! What the lab needs of the machine: looked at once, before anything is made.

use std::path::Path;

use anyhow::{Result, bail};

/// The programs that the lab runs.
const PROGRAMS: [&str; 14] = [
    "ip", "tc", "nft", "ethtool", "nsenter", "setpriv", "kamailio", "kamcmd", "sipp", "tcpdump", "tshark", "ping",
    "bird", "birdc",
];

/// Folders beside those in `PATH`: root's, which a plain user's `PATH` may lack.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Says what is missing, all at once.
///
/// # Errors
/// Not root, or a program is missing; the message names the way out.
pub fn check() -> Result<()> {
    // SAFETY: geteuid has no preconditions and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        bail!("the lab makes network namespaces and attaches XDP programs: run it as root");
    }
    let missing: Vec<&str> = PROGRAMS.into_iter().filter(|program| !installed(program)).collect();
    if !missing.is_empty() {
        bail!("the lab lacks {}: run `cargo xtask setup`", missing.join(", "));
    }
    Ok(())
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let listed = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    listed || FOLDERS.iter().any(|folder| Path::new(folder).join(program).is_file())
}
