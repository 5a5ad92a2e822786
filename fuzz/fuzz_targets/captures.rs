//! See `forwarder_fuzz::captures`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forwarder_fuzz::captures(data));
