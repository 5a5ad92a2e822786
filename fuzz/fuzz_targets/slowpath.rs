//! See `test_support::properties::slowpath`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| test_support::properties::slowpath(data));
