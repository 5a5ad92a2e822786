//! Any bytes as the choices of whoever makes a packet: what the loaded programs do with it is what the host's readers
//! and rules say, or they punt. Needs root.

#[path = "../../forwarder/tests/packets/arriving.rs"]
mod arriving;
#[allow(dead_code, reason = "the golden packets use the rest")]
#[path = "../../forwarder/tests/golden/bench.rs"]
mod bench;
#[path = "../../forwarder/tests/packets/choices.rs"]
mod choices;
#[allow(dead_code, reason = "as above")]
#[path = "../../forwarder/tests/golden/frames.rs"]
mod frames;
#[path = "../../forwarder/tests/packets/grammar.rs"]
mod grammar;
#[allow(dead_code, reason = "as above")]
#[path = "../../forwarder/tests/golden/leaving.rs"]
mod leaving;
#[path = "../../forwarder/tests/packets/odd.rs"]
mod odd;
#[path = "../../forwarder/tests/packets/play.rs"]
mod play;

use std::cell::RefCell;

use play::Nodes;

const ME: u16 = 1;
const PEER: u16 = 2;

/// Plays the packet that `data` makes up.
///
/// # Panics
/// A program does something else than the host says; or it cannot be loaded, for want of root.
pub(crate) fn packets(data: &[u8]) {
    thread_local!(static NODES: RefCell<Option<Nodes>> = const { RefCell::new(None) });
    NODES.with_borrow_mut(|nodes| {
        let _ = nodes.get_or_insert_with(Nodes::new).play(data);
    });
}
