//! See `forwarder_fuzz::readers`.
#![no_main]
#![expect(clippy::panic, clippy::indexing_slicing, reason = "what panics here is a finding")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forwarder_fuzz::readers(data));
