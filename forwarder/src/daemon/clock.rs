//! The daemon's clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use forwarder_core::node::Now;

use crate::dataplane;

/// The kernel's monotonic clock and the time of day.
pub(super) fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { monotonic_us: dataplane::monotonic_ns() / 1000, unix_us: u64::try_from(unix.as_micros()).unwrap_or(u64::MAX) }
}

/// The time of day in seconds.
pub(super) fn unix_s() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(unix.as_secs()).unwrap_or(i64::MAX)
}
