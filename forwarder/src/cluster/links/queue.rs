//! What waits for one peer: bounded in bytes, so that a slow or stopped peer costs neither the others nor the host's
//! memory.
//!
//! Snapshots wait apart: a hundred thousand old claims must not delay a new one. What finds no room is counted, and the
//! core's digest repairs it. What waits is never given up: the hello at its head must come first, whatever else does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::counts::{Shared, Traffic, count};
use forwarder_core::node::Kind;

/// Most bytes that wait for one peer, of new messages and of snapshots each: 100,000 claims/s for the second after
/// which a silent link ends, and twice what the core lets be on its way of a snapshot.
pub const QUEUE_BYTES: u64 = 4 << 20;
/// What a message takes of the host's memory beside its own bytes.
const OVERHEAD: u64 = 64;

/// Where the mesh puts messages for one peer.
#[derive(Debug)]
pub(super) struct Sender {
    urgent: mpsc::UnboundedSender<Vec<u8>>,
    bulk: mpsc::UnboundedSender<Vec<u8>>,
    room: Arc<Room>,
}

/// Where a link takes them from; what is left when it goes is dropped.
#[derive(Debug)]
pub(super) struct Receiver {
    urgent: mpsc::UnboundedReceiver<Vec<u8>>,
    bulk: mpsc::UnboundedReceiver<Vec<u8>>,
    room: Arc<Room>,
}

/// How full the two halves are, and who is told.
#[derive(Debug)]
struct Room {
    urgent: AtomicU64,
    bulk: AtomicU64,
    traffic: Arc<Traffic>,
    shared: Arc<Shared>,
}

pub(super) fn queue(traffic: &Arc<Traffic>, shared: &Arc<Shared>) -> (Sender, Receiver) {
    let (to_urgent, urgent) = mpsc::unbounded_channel();
    let (to_bulk, bulk) = mpsc::unbounded_channel();
    let (traffic, shared) = (Arc::clone(traffic), Arc::clone(shared));
    let room = Arc::new(Room { urgent: AtomicU64::new(0), bulk: AtomicU64::new(0), traffic, shared });
    (Sender { urgent: to_urgent, bulk: to_bulk, room: Arc::clone(&room) }, Receiver { urgent, bulk, room })
}

impl Sender {
    /// Queues a message, or drops and counts it.
    pub(super) fn push(&self, message: Vec<u8>, kind: Kind) {
        let (queue, half) =
            if kind == Kind::Snapshot { (&self.bulk, &self.room.bulk) } else { (&self.urgent, &self.room.urgent) };
        let bytes = weight(&message);
        // There is one sender, so nobody else fills it meanwhile.
        if half.load(Ordering::Relaxed) + bytes > QUEUE_BYTES {
            return self.room.dropped();
        }
        // Counted before it can be taken out, so that nothing falls below zero.
        self.room.add(half, bytes);
        if queue.send(message).is_err() {
            self.room.remove(half, bytes);
            self.room.dropped();
        }
    }
}

impl Receiver {
    /// The next message; `None` when the sender is gone.
    pub(super) async fn pop(&mut self) -> Option<Vec<u8>> {
        let (message, half) = tokio::select! {
            biased;
            Some(message) = self.urgent.recv() => (message, &self.room.urgent),
            Some(message) = self.bulk.recv() => (message, &self.room.bulk),
            else => return None,
        };
        self.room.remove(half, weight(&message));
        Some(message)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Closed first, so that nothing is put in and counted after the last look.
        self.urgent.close();
        self.bulk.close();
        while let Ok(message) = self.urgent.try_recv() {
            self.room.remove(&self.room.urgent, weight(&message));
        }
        while let Ok(message) = self.bulk.try_recv() {
            self.room.remove(&self.room.bulk, weight(&message));
        }
    }
}

impl Room {
    fn add(&self, half: &AtomicU64, bytes: u64) {
        half.fetch_add(bytes, Ordering::Relaxed);
        self.traffic.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        count(&self.traffic.queued);
        count(&self.shared.counters.queued_messages);
    }

    fn remove(&self, half: &AtomicU64, bytes: u64) {
        half.fetch_sub(bytes, Ordering::Relaxed);
        self.traffic.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.traffic.queued.fetch_sub(1, Ordering::Relaxed);
        self.shared.counters.queued_messages.fetch_sub(1, Ordering::Relaxed);
    }

    fn dropped(&self) {
        count(&self.traffic.dropped);
        count(&self.shared.counters.dropped_messages);
    }
}

fn weight(message: &[u8]) -> u64 {
    message.len() as u64 + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(shared: &Arc<Shared>) -> (Sender, Receiver, Arc<Traffic>) {
        let traffic = Arc::new(Traffic::default());
        let (sender, receiver) = queue(&traffic, shared);
        (sender, receiver, traffic)
    }

    fn depth(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn new_messages_go_before_snapshots_that_waited_longer_and_each_kind_in_its_order() {
        let shared = Arc::new(Shared::default());
        let (sender, mut receiver, _) = peer(&shared);
        for (number, kind) in
            [(1, Kind::Snapshot), (2, Kind::Hello), (3, Kind::Snapshot), (4, Kind::Batch), (5, Kind::Ask)]
        {
            sender.push(vec![number], kind);
        }
        for expected in [2, 4, 5, 1, 3] {
            assert_eq!(receiver.pop().await, Some(vec![expected]));
        }
        drop(sender);
        assert_eq!(receiver.pop().await, None);
    }

    #[tokio::test]
    async fn a_stopped_peers_queue_ends_and_what_it_held_is_given_back() {
        let shared = Arc::new(Shared::default());
        let (sender, receiver, traffic) = peer(&shared);
        (0..5).for_each(|_| sender.push(vec![0], Kind::Batch));
        (0..5).for_each(|_| sender.push(vec![0], Kind::Snapshot));
        assert_eq!((depth(&traffic.queued), depth(&traffic.queued_bytes)), (10, 10 * (1 + OVERHEAD)));
        drop(receiver);
        assert_eq!((depth(&traffic.queued), depth(&traffic.queued_bytes)), (0, 0));
        assert_eq!(shared.counters.read().queued_messages, 0);
        sender.push(vec![0], Kind::Batch);
        assert_eq!((depth(&traffic.queued), depth(&traffic.queued_bytes), depth(&traffic.dropped)), (0, 0, 1));
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_holds_so_many_bytes_whatever_they_are_and_a_quick_one_is_served_all_the_same() {
        for length in [0, 1150, 8192] {
            let shared = Arc::new(Shared::default());
            let (slow, mut taken, traffic) = peer(&shared);
            let room = QUEUE_BYTES / (length + OVERHEAD);
            for kind in [Kind::Batch, Kind::Snapshot] {
                (0..room + 5).for_each(|_| slow.push(vec![0; length as usize], kind));
            }
            assert_eq!((depth(&traffic.queued), depth(&traffic.dropped)), (2 * room, 10), "{length}");
            assert!(depth(&traffic.queued_bytes) <= 2 * QUEUE_BYTES);
            let (quick, mut receiver, dropped) = peer(&shared);
            quick.push(vec![7], Kind::Batch);
            assert_eq!((receiver.pop().await, depth(&dropped.dropped)), (Some(vec![7]), 0));
            // What is taken leaves room for as much.
            taken.pop().await.unwrap();
            slow.push(vec![0; length as usize], Kind::Batch);
            assert_eq!((depth(&traffic.queued), depth(&traffic.dropped)), (2 * room, 10));
        }
    }
}
