//! Any bytes as the choices of whoever makes a packet: what the loaded programs do with it is what the host's readers
//! and rules say, or they punt. Needs root.

use std::cell::RefCell;

use crate::programs::play::Nodes;

/// Plays the packet that `data` makes up.
///
/// # Panics
/// A program does something else than the host says; or it cannot be loaded, for want of root.
pub fn packets(data: &[u8]) {
    thread_local!(static NODES: RefCell<Option<Nodes>> = const { RefCell::new(None) });
    NODES.with_borrow_mut(|nodes| {
        let _ = nodes.get_or_insert_with(Nodes::load).play(data);
    });
}
