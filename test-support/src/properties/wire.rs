//! For any bytes: reading them as a message between daemons never panics, and what was read is what is written.

use forwarder_core::wire::{Gossip, Message};

/// Reads `data` as a message, and as a datagram.
///
/// # Panics
/// What it is read as reads otherwise when it is written again.
pub fn wire(data: &[u8]) {
    if let Ok(gossip) = Gossip::decode(data) {
        assert!(!matches!(gossip, Gossip::Linked(_)) || gossip.encode() == data, "{gossip:?}");
    }
    let Ok(message) = Message::decode(data) else { return };
    let bytes = message.encode();
    assert_eq!(Message::decode(&bytes).as_ref(), Ok(&message));
    assert!(bytes.len() <= data.len(), "{} bytes became {}", data.len(), bytes.len());
}
