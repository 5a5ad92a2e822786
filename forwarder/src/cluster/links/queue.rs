//! What waits for one peer: bounded in number and age, and in bytes over all peers, so that a slow or stopped peer
//! costs neither the others nor the host's memory.
//!
//! Snapshots wait apart: a hundred thousand old claims must not delay a new one. What is dropped is counted, and the
//! core's digest repairs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::counts::{Shared, Traffic, count};
use forwarder_core::node::Kind;

/// Most messages waiting for one peer, snapshots aside: 390,000 claims, 9 MB.
const QUEUE_MESSAGES: usize = 8192;
/// Most messages of snapshots waiting for one peer: 1.5 million claims, 37 MB.
const QUEUE_SNAPSHOTS: usize = 32_768;
/// Most messages waiting for all peers together: 300 MB. Beyond it only peers with a short queue get more.
const QUEUE_ALL: u64 = 262_144;
/// A queue up to here is short: a tenth of a second at 10,000 messages a second.
const QUEUE_SHORT: u64 = 1024;
/// A message that waited longer is worth less than the ones behind it: a tenth of the shortest lifetime.
const QUEUE_AGE: Duration = Duration::from_secs(3);
/// A snapshot may wait longer: nothing newer stands behind it.
const SNAPSHOT_AGE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Queued {
    message: Vec<u8>,
    kind: Kind,
    at: Instant,
}

/// Where the mesh puts messages for one peer.
#[derive(Debug)]
pub(super) struct Sender {
    urgent: mpsc::Sender<Queued>,
    bulk: mpsc::Sender<Queued>,
    traffic: Arc<Traffic>,
    shared: Arc<Shared>,
}

/// Where a link takes them from; what is left when it goes is dropped.
#[derive(Debug)]
pub(super) struct Receiver {
    urgent: mpsc::Receiver<Queued>,
    bulk: mpsc::Receiver<Queued>,
    traffic: Arc<Traffic>,
    shared: Arc<Shared>,
}

pub(super) fn queue(traffic: &Arc<Traffic>, shared: &Arc<Shared>) -> (Sender, Receiver) {
    let (to_urgent, urgent) = mpsc::channel(QUEUE_MESSAGES);
    let (to_bulk, bulk) = mpsc::channel(QUEUE_SNAPSHOTS);
    let (traffic, shared) = (Arc::clone(traffic), Arc::clone(shared));
    let sender =
        Sender { urgent: to_urgent, bulk: to_bulk, traffic: Arc::clone(&traffic), shared: Arc::clone(&shared) };
    (sender, Receiver { urgent, bulk, traffic, shared })
}

impl Sender {
    /// Queues a message, or drops and counts it.
    pub(super) fn push(&self, message: Vec<u8>, kind: Kind) {
        let (mine, all) = (&self.traffic.queued, &self.shared.counters.queued_messages);
        if all.load(Ordering::Relaxed) >= QUEUE_ALL && mine.load(Ordering::Relaxed) >= QUEUE_SHORT {
            return drop_one(&self.traffic, &self.shared);
        }
        let queue = if kind == Kind::Snapshot { &self.bulk } else { &self.urgent };
        // Counted before it can be taken out, so that the depth never falls below zero.
        count(mine);
        count(all);
        if queue.try_send(Queued { message, kind, at: Instant::now() }).is_err() {
            less(mine);
            less(all);
            drop_one(&self.traffic, &self.shared);
        }
    }
}

impl Receiver {
    /// The next message that is not too old; `None` when the sender is gone.
    pub(super) async fn pop(&mut self) -> Option<Vec<u8>> {
        loop {
            let queued = tokio::select! {
                biased;
                Some(queued) = self.urgent.recv() => queued,
                Some(queued) = self.bulk.recv() => queued,
                else => return None,
            };
            self.taken();
            let limit = match queued.kind {
                Kind::Hello => Duration::MAX,
                Kind::Snapshot => SNAPSHOT_AGE,
                Kind::Batch | Kind::Ask | Kind::Answer | Kind::Digest | Kind::Repair => QUEUE_AGE,
            };
            if queued.at.elapsed() <= limit {
                return Some(queued.message);
            }
            drop_one(&self.traffic, &self.shared);
        }
    }

    fn taken(&self) {
        less(&self.traffic.queued);
        less(&self.shared.counters.queued_messages);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Closed first, so that nothing is put in and counted after the last look.
        self.urgent.close();
        self.bulk.close();
        while self.urgent.try_recv().is_ok() || self.bulk.try_recv().is_ok() {
            self.taken();
        }
    }
}

fn less(counter: &AtomicU64) {
    counter.fetch_sub(1, Ordering::Relaxed);
}

fn drop_one(traffic: &Traffic, shared: &Shared) {
    count(&traffic.dropped);
    count(&shared.counters.dropped_messages);
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
    async fn what_waits_too_long_is_dropped_and_counted_but_for_the_hello() {
        let shared = Arc::new(Shared::default());
        let (sender, mut receiver, traffic) = peer(&shared);
        let mut late = |number, kind| {
            sender.push(vec![number], kind);
            let queue = if kind == Kind::Snapshot { &mut receiver.bulk } else { &mut receiver.urgent };
            let mut queued = queue.try_recv().unwrap();
            queued.at = Instant::now().checked_sub(QUEUE_AGE + Duration::from_millis(1)).unwrap();
            let again = if kind == Kind::Snapshot { &sender.bulk } else { &sender.urgent };
            again.try_send(queued).unwrap();
        };
        for (number, kind) in [(1, Kind::Batch), (2, Kind::Snapshot), (3, Kind::Hello)] {
            late(number, kind);
        }
        sender.push(vec![4], Kind::Batch);
        for expected in [3, 4, 2] {
            assert_eq!(receiver.pop().await, Some(vec![expected]));
        }
        assert_eq!((depth(&traffic.dropped), depth(&traffic.queued)), (1, 0));
        drop(sender);
        assert_eq!(receiver.pop().await, None);
        assert_eq!(shared.counters.read().dropped_messages, 1);
    }

    #[tokio::test]
    async fn a_stopped_peers_queue_ends_and_what_it_held_is_given_back() {
        let shared = Arc::new(Shared::default());
        let (sender, receiver, traffic) = peer(&shared);
        (0..QUEUE_MESSAGES + 5).for_each(|_| sender.push(vec![0], Kind::Batch));
        assert_eq!((depth(&traffic.queued), depth(&traffic.dropped)), (QUEUE_MESSAGES as u64, 5));
        drop(receiver);
        assert_eq!((depth(&traffic.queued), shared.counters.read().queued_messages), (0, 0));
        sender.push(vec![0], Kind::Batch);
        assert_eq!((depth(&traffic.queued), depth(&traffic.dropped)), (0, 6));
    }

    #[tokio::test]
    async fn many_slow_peers_together_are_bounded_and_a_quick_one_is_served_all_the_same() {
        let shared = Arc::new(Shared::default());
        let slow: Vec<_> = (0..10).map(|_| peer(&shared)).collect();
        for (sender, ..) in &slow {
            (0..QUEUE_SNAPSHOTS).for_each(|_| sender.push(Vec::new(), Kind::Snapshot));
        }
        assert_eq!(shared.counters.read().queued_messages, QUEUE_ALL + 2 * QUEUE_SHORT);
        let (sender, mut receiver, traffic) = peer(&shared);
        sender.push(vec![7], Kind::Batch);
        assert_eq!(receiver.pop().await, Some(vec![7]));
        assert_eq!(depth(&traffic.dropped), 0);
    }
}
