//! At most two labs at a time on one machine, whatever runs them: more would only disturb each other's timers.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::poll::poll_until;

/// Labs at a time.
const SLOTS: [&str; 2] = ["slot-1", "slot-2"];
/// Held by whoever chooses a slot, so that one who waits for all is not overtaken for ever.
const DOOR: &str = "door";
/// How long a lab waits for its turn.
const TIMEOUT: Duration = Duration::from_secs(600);

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
        let lock = poll_until("one of the two lab slots is free", TIMEOUT, || {
            let Some(_door) = lock(DOOR)? else { return Ok(None) };
            SLOTS.iter().find_map(|slot| lock(slot).transpose()).transpose()
        })?;
        Ok(Self { _locks: vec![lock] })
    }

    /// Waits for all, for a lab that needs the machine for itself.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_all() -> Result<Self> {
        let wait = |name| poll_until(&format!("the lab's {name} is free"), TIMEOUT, || lock(name));
        let _door = wait(DOOR)?;
        Ok(Self { _locks: SLOTS.into_iter().map(wait).collect::<Result<_>>()? })
    }
}

/// Takes a lock, if it is free.
fn lock(name: &str) -> Result<Option<File>> {
    let path = std::env::temp_dir().join(format!("siplab-{name}"));
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    // SAFETY: flock takes an open descriptor; the lock ends when it is closed.
    let status = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    Ok((status == 0).then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_all_slots_is_not_overtaken() -> Result<()> {
        let (one, other) = (Slot::take()?, Slot::take()?);
        drop(one);
        std::thread::scope(|scope| {
            let all = scope.spawn(|| Slot::take_all().map(drop));
            let is_waiting = || Ok(lock(DOOR)?.is_none());
            crate::poll::poll_until_true("somebody waits for all slots", TIMEOUT, is_waiting)?;
            let one_more = scope.spawn(|| Slot::take().map(drop));
            drop(other);
            all.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            one_more.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
