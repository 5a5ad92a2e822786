//! The object with the kernel programs, which the build puts into the daemon.

/// Where the build found the object, for what measures or tests beside it.
pub const OBJECT_PATH: &str = env!("FORWARDER_EBPF");
/// The object.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("FORWARDER_EBPF"));
/// The egress program's name, by which a TC filter is found again.
pub(super) const EGRESS: &str = "forwarder_egress";
