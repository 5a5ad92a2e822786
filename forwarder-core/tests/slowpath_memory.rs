//! What the slow path takes from the heap under floods, counted by the allocator: its bounds must be true ones.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use etherparse::PacketBuilder;
use forwarder_common::{abi::Punt, bound::Costs, ids::NodeId, outcome::Outcome, verdict::Found};
use forwarder_core::{
    fragments,
    slowpath::{Action, Service, Settings, SlowPath, View, hold, reassembly},
};

/// Counts the bytes that are taken, and their peak.
struct Counting;

static TAKEN: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is done by the system's allocator; counting touches nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(TAKEN.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promise is the one asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is the one asked for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What comes and goes while one packet is dealt with: the longest datagram, three times.
const IN_HAND: usize = 3 * 65_600;

struct Unknown;

impl View for Unknown {
    fn owner(&self, _: u64) -> Found {
        Found::Nothing
    }

    fn serves(&self, _: NodeId, _: usize) -> bool {
        true
    }

    fn peer_up(&self) -> bool {
        true
    }

    fn successor(&self, _: u64) -> Option<NodeId> {
        None
    }

    fn reassembler(&self, _: usize) -> Option<NodeId> {
        None
    }
}

/// A frame from a client of its own.
fn frame(client: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(client.to_be_bytes(), [192, 0, 2, 10], 60);
    builder.udp(5060, 5060).write(&mut bytes, payload).unwrap();
    bytes
}

fn punt(path: &mut SlowPath, reason: Outcome, frame: &[u8], now_us: u64) {
    let head = Punt { ifindex: 1, length: frame.len() as u32, reason: reason.number(), ..Punt::default() };
    path.handle_timeout(&Unknown, now_us);
    path.handle_punt(head, frame, &Unknown, now_us);
    while path.poll_action().is_some() {}
}

/// The most that is taken from the heap while `flood` runs on a slow path of its own.
fn peak(flood: impl Fn(&mut SlowPath)) -> usize {
    let services = vec![Service { address: "192.0.2.10:5060".parse().unwrap(), affinity_call: false }];
    let settings = Settings {
        node: NodeId::new(1).unwrap(),
        hash_key: [3, 4],
        services,
        hold_us: 1_000_000,
        costs: Costs::default(),
    };
    let mut path = SlowPath::new(&settings);
    let before = TAKEN.load(Relaxed);
    PEAK.store(before, Relaxed);
    flood(&mut path);
    path.handle_timeout(&Unknown, u64::MAX);
    while path.poll_action().is_some() {}
    let ledger = path.ledger();
    assert_eq!((ledger.balance(), ledger.held, ledger.reassembling), (0, 0, 0));
    let left = TAKEN.load(Relaxed) - before;
    // The queue of actions keeps its room: the most that a timeout has let go at once.
    assert!(left < 2 * hold::PACKETS * size_of::<Action>(), "{left} bytes stay");
    PEAK.load(Relaxed) - before
}

/// Packets of this length that are more than twice what the bounds allow.
fn packets(bound: usize, length: usize) -> u32 {
    u32::try_from(bound / length).unwrap().clamp(600, 10_000) * 2
}

/// One test, since what others take would be counted as well.
#[test]
fn floods_take_no_more_of_the_heap_than_the_bounds_say() {
    for length in [16, 1480, 60_000] {
        let payload = vec![b'x'; length + 24];
        let bytes = peak(|path| {
            for client in 0..packets(reassembly::BYTES, length) {
                let whole = frame(client, &payload);
                let first = fragments::split(&whole[14..], 20 + length).unwrap().remove(0);
                punt(path, Outcome::PuntedFragment, &[&whole[..14], &first].concat(), u64::from(client));
            }
            assert!(path.ledger().reassembling_bytes > reassembly::BYTES / 4);
        });
        assert!(bytes < reassembly::BYTES + IN_HAND, "{bytes} bytes for fragments of {length}");
        println!("halves of {length} bytes: peak {bytes} of {}", reassembly::BYTES);
    }
    for length in [150, 1400, 60_000] {
        let bytes = peak(|path| {
            for client in 0..packets(hold::BYTES, length) {
                let mut text = format!("SIP/2.0 200 OK\r\nCall-ID: {client}\r\nCSeq: 1 INVITE\r\n").into_bytes();
                text.extend(format!("Via: SIP/2.0/UDP h;branch=z9hG4bK{client}\r\n\r\n").into_bytes());
                text.resize(length, b'x');
                punt(path, Outcome::PuntedUnknownResponse, &frame(client, &text), u64::from(client) * 100);
            }
            assert!(path.ledger().held > 100);
        });
        assert!(bytes < hold::BYTES + IN_HAND, "{bytes} bytes for replies of {length}");
        println!("unknown replies of {length} bytes: peak {bytes} of {}", hold::BYTES);
    }
}
