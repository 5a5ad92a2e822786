//! What must hold for any bytes, each a function of them that panics where it finds a fault.
//!
//! `cargo xtask fuzz` calls them from libFuzzer; a test calls them with what `fuzz/corpus` keeps, as part of
//! `cargo xtask test`.

mod captures;
mod configuration;
mod control;
mod frames;
mod node;
mod packets;
mod readers;
mod reassembly;
mod slowpath;
mod tunnel;
mod wire;

pub use captures::captures;
pub use configuration::configuration;
pub use control::control;
pub use frames::frames;
pub use node::node;
pub use packets::packets;
pub use readers::readers;
pub use reassembly::reassembly;
pub use slowpath::slowpath;
pub use tunnel::tunnel;
pub use wire::wire;
