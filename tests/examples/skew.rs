//! A wall clock that is wrong by `LAB_SKEW_S` seconds, for a program that is started with this as `LD_PRELOAD`.
//!
//! It stands in front of `clock_gettime(3)` of the C library. Only the wall clock is wrong: the monotonic clock is the
//! machine's own, as that of its kernel programs is.

use std::sync::OnceLock;

/// By how much.
fn seconds() -> libc::time_t {
    static SECONDS: OnceLock<libc::time_t> = OnceLock::new();
    let read = || std::env::var("LAB_SKEW_S").ok()?.parse().ok();
    *SECONDS.get_or_init(|| read().unwrap_or_default())
}

/// `clock_gettime(3)`.
///
/// # Safety
/// As there: `time` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the caller's promise is the call's own.
    let status = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if status == 0 && (clock == libc::CLOCK_REALTIME || clock == libc::CLOCK_REALTIME_COARSE) {
        // SAFETY: the kernel has just written there.
        unsafe { (*time).tv_sec += seconds() };
    }
    libc::c_int::try_from(status).unwrap_or(-1)
}
