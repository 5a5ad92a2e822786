//! See `forwarder_fuzz::packets`. Loading the programs takes longer than any packet may.
#![no_main]

libfuzzer_sys::fuzz_target!(init: forwarder_fuzz::packets(&[]), |data: &[u8]| forwarder_fuzz::packets(data));
