//! Fragments wait here for the others of their datagram. Bounded whatever arrives.
//!
//! They are kept as they came and joined when none is missing, so that a fragment costs what it is long, wherever in
//! the datagram it claims to lie. The oldest datagrams give way to new ones: honest fragments arrive together.

mod datagram;

use std::collections::{BTreeMap, BTreeSet};

use forwarder_common::{abi::Address, ids::NodeId};

use self::datagram::{Added, Datagram, Piece};
pub(super) use self::datagram::{Arrival, Whole};
pub use self::datagram::{DATAGRAM_OVERHEAD, FRAGMENT_OVERHEAD, FRAGMENTS};
use super::packet::{Fragment, Packet};

/// How long a datagram may stay incomplete, in microseconds: T4 of RFC 3261 §17.1.2.2, the longest that a message stays
/// in the network. IP's own 60 s (RFC 8200 §4.5) would hold what SIP has retransmitted three times by then.
pub const AGE_US: u64 = 5_000_000;
/// Bytes of waiting fragments in all, with what keeping them costs.
pub const BYTES: usize = 16 << 20;
/// Incomplete datagrams in all: what keeping them costs is then a quarter of [`BYTES`] at most.
pub const DATAGRAMS: usize = 4096;
/// Incomplete datagrams of one source (an IPv4 address, an IPv6 /64): a carrier may be one address.
pub const SOURCE_DATAGRAMS: usize = 512;
/// Bytes of one source, as in [`BYTES`].
pub const SOURCE_BYTES: usize = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    source: [u32; 4],
    destination: [u32; 4],
    id: u32,
    protocol: u8,
    cut_by: u16,
}

impl Key {
    fn new(arrival: &Arrival<'_>) -> Option<Self> {
        let Packet { bytes, ip } = &arrival.packet;
        Some(Self {
            source: ip.source(bytes)?.0,
            destination: ip.destination(bytes)?.0,
            id: arrival.fragment.id,
            protocol: ip.protocol.0,
            cut_by: arrival.cut_by.map_or(0, NodeId::number),
        })
    }

    /// Who pays for it: an IPv6 host has its /64 for the taking.
    const fn payer(&self) -> [u32; 4] {
        let [a, b, _, _] = self.source;
        if Address(self.source).is_v4() { self.source } else { [a, b, 0, 0] }
    }
}

#[derive(Debug, Default)]
struct Source {
    bytes: usize,
    serials: BTreeSet<u64>,
}

/// All that waits.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    datagrams: BTreeMap<Key, Datagram>,
    /// In the order of their arrival, which is that of their deadlines.
    order: BTreeMap<u64, Key>,
    sources: BTreeMap<[u32; 4], Source>,
    bytes: usize,
    serial: u64,
    waiting: u64,
    joined: u64,
    dropped: u64,
}

impl Reassembly {
    /// Takes a fragment; gives the datagram if it was the last one missing.
    pub(super) fn put(&mut self, arrival: &Arrival<'_>, now_us: u64) -> Option<Whole> {
        self.expire(now_us);
        let Some((key, piece)) = Key::new(arrival).zip(Piece::new(arrival)) else {
            self.dropped += 1;
            return None;
        };
        let Fragment { offset, more, .. } = arrival.fragment;
        // An IPv6 packet in one fragment is no business of others with its identification (RFC 6946 §4).
        if offset == 0 && !more {
            return self.whole(Datagram::alone(piece));
        }
        self.open(key, now_us);
        self.waiting += 1;
        let datagram = self.datagrams.get_mut(&key)?;
        let before = datagram.bytes();
        let pieces = datagram.pieces();
        match datagram.add(offset, more, piece) {
            Added::Waits => {}
            Added::Useless => self.give_up(1),
            // The place stays taken, so that what follows of this datagram is refused as well.
            Added::Contradicts => self.give_up(pieces + 1),
            Added::Completes => {
                let (_, datagram) = self.close(key, before)?;
                self.waiting -= datagram.pieces();
                return self.whole(datagram);
            }
        }
        let after = self.datagrams.get(&key).map_or(0, Datagram::bytes);
        self.charge(&key, before, after);
        self.make_room(key.payer());
        None
    }

    fn whole(&mut self, datagram: Datagram) -> Option<Whole> {
        let pieces = datagram.pieces();
        let whole = datagram.whole();
        *if whole.is_some() { &mut self.joined } else { &mut self.dropped } += pieces;
        whole
    }

    /// Drops the datagrams whose time is over.
    pub(super) fn expire(&mut self, now_us: u64) {
        while self.due_us().is_some_and(|due_us| due_us <= now_us) {
            self.drop_oldest();
        }
    }

    /// When the oldest datagram's time is over.
    pub(super) fn due_us(&self) -> Option<u64> {
        let (_, key) = self.order.first_key_value()?;
        self.datagrams.get(key).map(|datagram| datagram.due_us)
    }

    /// Hands out all waiting fragments as they came.
    pub(super) fn drain(&mut self) -> Vec<Whole> {
        let mut all = Vec::new();
        while let Some((_, key)) = self.order.first_key_value() {
            let key = *key;
            let bytes = self.datagrams.get(&key).map_or(0, Datagram::bytes);
            let Some((_, datagram)) = self.close(key, bytes) else { break };
            self.waiting -= datagram.pieces();
            all.extend(datagram.into_fragments());
        }
        all
    }

    /// Bytes that the waiting fragments cost.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fragments that wait.
    pub(super) const fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Fragments that became part of a whole datagram.
    pub(super) const fn joined(&self) -> u64 {
        self.joined
    }

    /// Fragments that were given up.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }

    fn open(&mut self, key: Key, now_us: u64) {
        if self.datagrams.contains_key(&key) {
            return;
        }
        self.serial += 1;
        let datagram = Datagram::new(self.serial, now_us.saturating_add(AGE_US));
        let bytes = datagram.bytes();
        self.datagrams.insert(key, datagram);
        self.order.insert(self.serial, key);
        self.sources.entry(key.payer()).or_default().serials.insert(self.serial);
        self.charge(&key, 0, bytes);
    }

    /// Takes a datagram, for which `bytes` were charged, out of all indices.
    fn close(&mut self, key: Key, bytes: usize) -> Option<(Key, Datagram)> {
        let datagram = self.datagrams.remove(&key)?;
        self.order.remove(&datagram.serial);
        self.charge(&key, bytes, 0);
        if let Some(source) = self.sources.get_mut(&key.payer()) {
            source.serials.remove(&datagram.serial);
            if source.serials.is_empty() {
                self.sources.remove(&key.payer());
            }
        }
        Some((key, datagram))
    }

    fn charge(&mut self, key: &Key, before: usize, after: usize) {
        self.bytes = self.bytes + after - before;
        if let Some(source) = self.sources.get_mut(&key.payer()) {
            source.bytes = source.bytes + after - before;
        }
    }

    fn give_up(&mut self, fragments: u64) {
        self.waiting -= fragments;
        self.dropped += fragments;
    }

    /// A source that asks for too much pays with its own oldest datagrams, then the oldest of all give way.
    fn make_room(&mut self, payer: [u32; 4]) {
        while let Some(source) = self.sources.get(&payer) {
            if source.bytes <= SOURCE_BYTES && source.serials.len() <= SOURCE_DATAGRAMS {
                break;
            }
            let Some(serial) = source.serials.first().copied() else { break };
            self.drop_one(serial);
        }
        while self.bytes > BYTES || self.datagrams.len() > DATAGRAMS {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(serial) = self.order.first_key_value().map(|(serial, _)| *serial) {
            self.drop_one(serial);
        }
    }

    fn drop_one(&mut self, serial: u64) {
        let Some(key) = self.order.get(&serial).copied() else { return };
        let bytes = self.datagrams.get(&key).map_or(0, Datagram::bytes);
        if let Some((_, datagram)) = self.close(key, bytes) {
            self.give_up(datagram.pieces());
        }
    }
}
