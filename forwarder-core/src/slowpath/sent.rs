//! What the local proxy has sent in IP fragments, made whole again so that it can be read and claimed.
//!
//! The egress program gives the daemon copies of the fragments of a message whose key it does not find in the first
//! one.

use super::{
    packet::{Fragment, Packet},
    reassembly::{Arrival, Reassembly},
};

/// The fragments that wait for others, bounded as those of the slow path.
#[derive(Debug, Default)]
pub struct Sent(Reassembly);

impl Sent {
    /// Takes a frame that this host has sent; the whole IP packet if it was the last fragment missing. Frames that
    /// carry no fragment give nothing.
    pub fn put(&mut self, frame: &[u8], now_us: u64) -> Option<Vec<u8>> {
        let packet = Packet::of_frame(frame).filter(|packet| packet.ip.fragment)?;
        let fragment = Fragment::read(&packet)?;
        let arrival = Arrival { packet, fragment, ifindex: 0, cut_by: None };
        self.0.put(&arrival, now_us).map(|whole| whole.packet)
    }

    /// Forgets what has waited long enough.
    pub fn handle_timeout(&mut self, now_us: u64) {
        self.0.expire(now_us);
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        self.0.due_us()
    }
}
