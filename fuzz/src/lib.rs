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

mod frames;
mod node;
mod readers;
mod slowpath;
mod wire;

pub use frames::frames;
pub use node::node;
pub use readers::readers;
pub use slowpath::slowpath;
pub use wire::wire;
