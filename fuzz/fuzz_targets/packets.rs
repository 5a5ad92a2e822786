//! See `test_support::properties::packets`. Loading the programs takes longer than any packet may.
#![no_main]

use test_support::properties::packets;

libfuzzer_sys::fuzz_target!(init: packets(&[]), |data: &[u8]| packets(data));
