//! The time as captures count it.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

/// Microseconds since 1970.
///
/// # Errors
/// The machine's clock is before that.
pub fn now_us() -> Result<u64> {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?;
    u64::try_from(elapsed.as_micros()).context("read the clock")
}
