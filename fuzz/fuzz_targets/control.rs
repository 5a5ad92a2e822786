//! See `forwarder_fuzz::control`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forwarder_fuzz::control(data));
