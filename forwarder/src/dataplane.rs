//! The kernel side as the daemon sees it: programs loaded and attached, maps written and read.
//!
//! With the files below it the only place that knows aya. It decides nothing: the daemon tells it what to write.

mod verify;

pub use verify::{VERIFIER_LIMIT, Verified, verify};

/// The object with the kernel programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("FORWARDER_EBPF"));
