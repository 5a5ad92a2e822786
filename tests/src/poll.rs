//! Waiting for something to become true, with a deadline and a name.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(20);

/// Returns the condition's value as soon as it has one.
///
/// # Errors
/// The condition's own error at once; or, past `deadline`, an error that names `what` was waited for.
pub fn poll_until<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("{what}: not within {deadline:?}");
        }
        std::thread::park_timeout(STEP);
    }
}

/// The same for a plain condition.
///
/// # Errors
/// As [`poll_until`].
pub fn poll_until_true(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    poll_until(what, deadline, || Ok(condition()?.then_some(())))
}
