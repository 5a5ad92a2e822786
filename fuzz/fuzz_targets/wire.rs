//! See `forwarder_fuzz::wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forwarder_fuzz::wire(data));
