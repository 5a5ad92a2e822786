//! What is attached to an interface, asked from the kernel itself.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::{Host, Lab};
use crate::poll::poll_until_true;

/// `BPF_PROG_QUERY` of bpf(2).
const PROG_QUERY: libc::c_long = 16;
/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS`.
const TCX: [u32; 2] = [46, 47];

/// The head of `union bpf_attr` for a query, as long as kernels from 6.6 on read it.
#[repr(C)]
#[derive(Default)]
struct Query {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Everything attached to a host's eth0, each in a word: `xdp`, `tcx`, `clsact`.
///
/// # Errors
/// The kernel does not say.
pub fn programs(lab: &Lab, host: Host) -> Result<Vec<String>> {
    let namespace = lab.host(host);
    let mut found = Vec::new();
    let links: Value = serde_json::from_str(&namespace.run("ip", &["-json", "link", "show", "dev", "eth0"])?)
        .context("read what ip says of eth0")?;
    if links.pointer("/0/xdp").is_some() {
        found.push("xdp".to_owned());
    }
    let filters = namespace.run("tc", &["qdisc", "show", "dev", "eth0", "clsact"])?;
    if !filters.trim().is_empty() {
        found.push("clsact".to_owned());
    }
    let ifindex = links.pointer("/0/ifindex").and_then(Value::as_u64).context("find the index of eth0")?;
    let ifindex = u32::try_from(ifindex).context("read the index of eth0")?;
    let counts = namespace.within(|| Ok(TCX.map(|attach_type| tcx_programs(ifindex, attach_type))))?;
    if counts.iter().any(|count| *count > 0) {
        found.push("tcx".to_owned());
    }
    Ok(found)
}

/// Programs at one side of an interface; 0 also where the kernel has no tcx.
fn tcx_programs(ifindex: u32, attach_type: u32) -> u32 {
    let mut query = Query { ifindex, attach_type, ..Query::default() };
    // SAFETY: bpf(2) reads and writes at most the given length of the structure, which is alive and writable; it holds
    // no pointers, so that only the count is asked for.
    let status = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if status == 0 { query.count } else { 0 }
}

/// Fails unless a host's eth0 is bare and the pins are gone.
///
/// # Errors
/// Names what is left.
pub fn ensure_nothing(lab: &Lab, host: Host, pins: &Path) -> Result<()> {
    // The kernel takes a program off a moment after its last link is gone.
    poll_until_true(&format!("nothing is attached to eth0 of {}", host.name()), Duration::from_secs(2), || {
        Ok(programs(lab, host)?.is_empty())
    })?;
    let pinned: Vec<_> = std::fs::read_dir(pins).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    ensure!(pinned.is_empty(), "still pinned: {pinned:?}");
    Ok(())
}
