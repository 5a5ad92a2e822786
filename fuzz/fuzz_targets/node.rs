//! See `forwarder_fuzz::node`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forwarder_fuzz::node(data));
