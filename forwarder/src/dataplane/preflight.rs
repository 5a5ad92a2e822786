//! What the host must offer before anything is loaded: a kernel that is new enough, and the right to use it.

use std::fs;

use anyhow::{Context as _, Result, bail};

/// The oldest kernel on which the programs pass the verifier.
pub const OLDEST: (u32, u32) = (6, 1);
/// The first kernel with tcx links (commit e420bed02507).
const TCX: (u32, u32) = (6, 6);

/// Capabilities (capability.h) that loading, attaching and netlink need.
const NEEDED: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
const SYS_ADMIN: u32 = 21;

/// Checks kernel and capabilities.
///
/// # Errors
/// One of them is missing, by name and with a way out.
pub fn check() -> Result<()> {
    check_kernel(&release()?)?;
    let status = fs::read_to_string("/proc/self/status").context("read this process's capabilities")?;
    check_capabilities(&status)
}

/// Whether the kernel has tcx.
pub(super) fn has_tcx() -> bool {
    release().ok().and_then(|release| version(&release)).is_some_and(|version| version >= TCX)
}

fn release() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    Ok(release.trim().to_owned())
}

/// Major and minor version of a release such as `6.1.0-50-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn check_kernel(release: &str) -> Result<()> {
    let (major, minor) = OLDEST;
    match version(release) {
        Some(version) if version >= OLDEST => Ok(()),
        Some(_) => bail!("use kernel {release}: it is too old; hint: Linux {major}.{minor} or newer is needed"),
        None => {
            bail!("use kernel {release}: its version cannot be read; hint: Linux {major}.{minor} or newer is needed")
        }
    }
}

fn check_capabilities(status: &str) -> Result<()> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        bail!("read this process's capabilities: /proc/self/status has no CapEff");
    };
    let has = |bit: u32| effective >> bit & 1 != 0;
    let missing: Vec<_> = NEEDED
        .iter()
        // Before the finer capabilities there was CAP_SYS_ADMIN, and it still stands for them.
        .filter(|(bit, name)| !(has(*bit) || *name != "CAP_NET_ADMIN" && has(SYS_ADMIN)))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "load kernel programs: {} missing; hint: run as root, or give the service these capabilities",
        missing.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_the_oldest_are_refused_by_name() {
        for good in ["6.1.0-50-amd64", "6.18.44-fc-v657", "10.0"] {
            assert!(check_kernel(good).is_ok(), "{good}");
        }
        let error = check_kernel("5.15.0-generic").unwrap_err().to_string();
        assert_eq!(error, "use kernel 5.15.0-generic: it is too old; hint: Linux 6.1 or newer is needed");
        assert!(check_kernel("unknown").unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn missing_capabilities_are_named() {
        let status = |mask: u64| format!("Name:\tx\nCapEff:\t{mask:016x}\n");
        assert!(check_capabilities(&status(u64::MAX)).is_ok());
        assert!(check_capabilities(&status(1 << 12 | 1 << 38 | 1 << 39)).is_ok());
        assert!(check_capabilities(&status(1 << 12 | 1 << 21)).is_ok());
        let error = check_capabilities(&status(1 << 39)).unwrap_err().to_string();
        assert!(error.starts_with("load kernel programs: CAP_NET_ADMIN, CAP_PERFMON missing"), "{error}");
        assert!(check_capabilities("").is_err());
    }
}
