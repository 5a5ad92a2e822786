//! At most two labs at a time on one machine, whatever runs them: more would only disturb each other's timers.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::poll::poll_until;

/// Labs at a time.
const SLOTS: u8 = 2;
/// How long a lab waits for its turn.
const PATIENCE: Duration = Duration::from_secs(600);

/// The right to have a lab, until dropped.
#[derive(Debug)]
pub struct Slot {
    _locks: Vec<File>,
}

impl Slot {
    /// Waits for one.
    ///
    /// # Errors
    /// None is free within ten minutes, or the lock files cannot be written.
    pub fn take() -> Result<Self> {
        let lock = poll_until("one of the two lab slots is free", PATIENCE, || {
            (1..=SLOTS).find_map(|slot| lock(slot).transpose()).transpose()
        })?;
        Ok(Self { _locks: vec![lock] })
    }

    /// Waits for all, for a lab that needs the machine for itself.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_all() -> Result<Self> {
        // One after the other, and all who want all in the same order, so that no two hold what the other waits for.
        let wait = |slot| poll_until(&format!("lab slot {slot} is free"), PATIENCE, || lock(slot));
        Ok(Self { _locks: (1..=SLOTS).map(wait).collect::<Result<_>>()? })
    }
}

/// Locks a slot, if it is free.
fn lock(slot: u8) -> Result<Option<File>> {
    let path = std::env::temp_dir().join(format!("siplab-slot-{slot}"));
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    // SAFETY: flock takes an open descriptor; the lock ends when it is closed.
    let status = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    Ok((status == 0).then_some(file))
}
