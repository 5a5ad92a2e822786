//! The lab: network namespaces with real SIP software on both sides of one to five edges.
//!
//! A router sprays every packet for the shared address over the edges, so that each lands on another one than the last:
//! the worst anycast there is. Tests and the demo are written with what stands here. Nothing leaves the namespaces.

pub mod attached;
pub mod calls;
pub mod capture;
pub mod chaos;
pub mod claims;
pub mod clock;
pub mod flood;
pub mod forwarder;
pub mod hostile;
pub mod kamailio;
pub mod lab;
pub mod load;
pub mod namespace;
pub mod needs;
pub mod poll;
pub mod process;
pub mod silent;
pub mod simulation;
pub mod sipp;
pub mod traffic;
