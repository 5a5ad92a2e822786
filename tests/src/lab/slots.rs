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
    _lock: File,
}

impl Slot {
    /// Waits for one.
    ///
    /// # Errors
    /// None is free within ten minutes, or the lock files cannot be written.
    pub fn take() -> Result<Self> {
        poll_until("one of the two lab slots is free", PATIENCE, || {
            for slot in 1..=SLOTS {
                let path = std::env::temp_dir().join(format!("siplab-slot-{slot}"));
                let file = File::options().create(true).append(true).open(&path);
                let file = file.with_context(|| format!("open {}", path.display()))?;
                // SAFETY: flock takes an open descriptor; the lock ends when it is closed.
                if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
                    return Ok(Some(Self { _lock: file }));
                }
            }
            Ok(None)
        })
    }
}
