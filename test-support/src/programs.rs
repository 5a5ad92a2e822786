//! The loaded programs, packets for them by `BPF_PROG_TEST_RUN`, and the host's account of what must become of each.
//! Needs root.

pub mod arriving;
pub mod bench;
pub mod budget;
pub mod choices;
pub mod frames;
pub mod grammar;
pub mod leaving;
pub mod odd;
pub mod play;

/// The node whose programs are loaded.
pub const ME: u16 = 1;
/// The peer that it knows.
pub const PEER: u16 = 2;
