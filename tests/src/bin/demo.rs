//! Stub for first bring-up.
fn main() {}
