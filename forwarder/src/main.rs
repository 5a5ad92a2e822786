//! The command `forwarder`.
fn main() {}
