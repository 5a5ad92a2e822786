//! See `test_support::properties::configuration`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| test_support::properties::configuration(data));
