//! What is fuzzed, each a function of any bytes that panics where it finds a fault.
//!
//! `cargo xtask fuzz` calls them from libFuzzer; a test calls them with what `corpus` keeps, as part of
//! `cargo xtask test`.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "what panics here is a finding"
)]

#[cfg(feature = "daemon")]
mod captures;
#[cfg(feature = "daemon")]
mod configuration;
#[cfg(feature = "daemon")]
mod control;
mod frames;
mod node;
#[cfg(feature = "daemon")]
mod packets;
mod readers;
mod reassembly;
mod slowpath;
#[cfg(feature = "daemon")]
mod tunnel;
mod wire;

pub use frames::frames;
pub use node::node;
pub use readers::readers;
pub use reassembly::reassembly;
pub use slowpath::slowpath;
pub use wire::wire;

#[cfg(feature = "daemon")]
pub use daemon::{captures, configuration, control, packets, tunnel};

/// What the daemon's own tests play as well, under names of this crate.
#[cfg(feature = "daemon")]
mod daemon {
    /// See the module of that name.
    pub fn captures(data: &[u8]) {
        crate::captures::captures(data);
    }

    /// See the module of that name.
    pub fn configuration(data: &[u8]) {
        crate::configuration::configuration(data);
    }

    /// See the module of that name.
    pub fn control(data: &[u8]) {
        crate::control::control(data);
    }

    /// See the module of that name.
    pub fn packets(data: &[u8]) {
        crate::packets::packets(data);
    }

    /// See the module of that name.
    pub fn tunnel(data: &[u8]) {
        crate::tunnel::tunnel(data);
    }
}
