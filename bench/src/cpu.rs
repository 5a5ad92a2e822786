//! The CPU that a measurement runs on.

use anyhow::{Result, ensure};

/// This thread runs on that CPU alone from now on: all runs are to meet the same caches.
///
/// # Errors
/// There is no such CPU, or this process may not use it.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    // SAFETY: a set of CPUs is plain memory, zero is the empty set, and the call reads it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    ensure!(result == 0, "run on CPU {cpu} alone: {}", std::io::Error::last_os_error());
    Ok(())
}
