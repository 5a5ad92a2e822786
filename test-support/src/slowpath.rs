//! A slow path in virtual time, and the packets that come its way.

pub mod packets;
pub mod world;
