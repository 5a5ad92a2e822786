//! See `forwarder_fuzz::slowpath`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forwarder_fuzz::slowpath(data));
