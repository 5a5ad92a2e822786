//! What the kernel programs and the daemon must agree on to the byte.
//!
//! Packets flow `net` (Ethernet to UDP) -> `sip` (start line, Via branch, Call-ID, CSeq) -> `hash` (keys) ->
//! `table` (look-up) -> `verdict` (what to do) -> `geneve` (how to send it); `outcome` names each end of that way.
//! Parsers are generic over [`reader::Reader`], so that the kernel and the host run the same lines.
//! Nothing here allocates, waits or knows a map.
#![no_std]

pub mod abi;
pub mod bound;
pub mod checksum;
pub mod claim;
pub mod clock;
pub mod code;
pub mod geneve;
pub mod hash;
pub mod ids;
pub mod keys;
pub mod lifetime;
pub mod marks;
pub mod net;
pub mod outcome;
pub mod question;
pub mod reader;
pub mod rendezvous;
pub mod rest;
pub mod sip;
pub mod table;
pub mod tunnel;
pub mod verdict;
pub mod worth;
