//! See `test_support::properties::reassembly`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| test_support::properties::reassembly(data));
