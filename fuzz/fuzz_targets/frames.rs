//! See `forwarder_fuzz::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forwarder_fuzz::frames(data));
