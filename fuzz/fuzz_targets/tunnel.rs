//! See `forwarder_fuzz::tunnel`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forwarder_fuzz::tunnel(data));
