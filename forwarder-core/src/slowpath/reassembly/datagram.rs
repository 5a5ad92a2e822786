//! The fragments of one datagram: what fits, what is a duplicate, what contradicts.

use std::collections::BTreeMap;

use forwarder_common::ids::NodeId;

use crate::slowpath::{
    packet::{Fragment, Packet},
    whole,
};

/// Fragments of one datagram: 65,535 bytes over a path with IPv4's customary least MTU of 576 make 119.
pub const FRAGMENTS: usize = 128;
/// Bytes that keeping one fragment costs besides its own.
pub const FRAGMENT_OVERHEAD: usize = 64;
/// Bytes that keeping one datagram costs: its entry, its places in the indices and a node for its fragments.
pub const DATAGRAM_OVERHEAD: usize = 1024;

/// The longest IP payload in bytes (RFC 791 §3.1, RFC 8200 §3).
const LONGEST: u32 = 65_535;

/// A fragment that came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    pub(crate) packet: Packet<'a>,
    pub(crate) fragment: Fragment,
    pub(crate) ifindex: u32,
    /// The peer that cut a whole datagram for this node; `None` for a fragment as its sender made it.
    pub(crate) cut_by: Option<NodeId>,
}

/// A datagram made whole.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) packet: Vec<u8>,
    pub(crate) ifindex: u32,
}

/// A fragment as it came.
#[derive(Debug)]
pub(super) struct Piece {
    ifindex: u32,
    packet: Vec<u8>,
    /// Where its data begins.
    data: usize,
}

impl Piece {
    /// `None` if the fragment cannot be part of any datagram.
    pub(super) fn new(arrival: &Arrival<'_>) -> Option<Self> {
        let fragment = &arrival.fragment;
        let packet = arrival.packet.bytes;
        let length = u32::try_from(packet.len().checked_sub(fragment.data)?).ok()?;
        // All but the last are whole units of eight bytes, and none reaches behind the longest payload (RFC 8200 §4.5).
        let aligned = !fragment.more || length % 8 == 0;
        let fits = length > 0 && u32::from(fragment.offset) + length <= LONGEST;
        (aligned && fits).then(|| Self { ifindex: arrival.ifindex, packet: packet.to_vec(), data: fragment.data })
    }

    fn data(&self) -> &[u8] {
        self.packet.get(self.data..).unwrap_or_default()
    }

    fn length(&self) -> u32 {
        self.packet.len().saturating_sub(self.data) as u32
    }
}

/// What became of a fragment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// It waits for the others.
    Waits,
    /// Nothing is missing any more.
    Completes,
    /// A copy of one that is there, or of a datagram given up.
    Useless,
    /// The datagram is given up, with all that came and all that will come of it.
    Contradicts,
}

/// An incomplete datagram.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) serial: u64,
    pub(super) due_us: u64,
    pieces: BTreeMap<u16, Piece>,
    /// Bytes of data that are there.
    filled: u32,
    /// Where the data ends, once the last fragment is there.
    end: Option<u32>,
    bytes: usize,
    is_discarded: bool,
}

impl Datagram {
    pub(super) const fn new(serial: u64, due_us: u64) -> Self {
        let pieces = BTreeMap::new();
        Self { serial, due_us, pieces, filled: 0, end: None, bytes: DATAGRAM_OVERHEAD, is_discarded: false }
    }

    /// A datagram of one fragment.
    pub(super) fn alone(piece: Piece) -> Self {
        let mut alone = Self::new(0, 0);
        alone.end = Some(piece.length());
        alone.pieces.insert(0, piece);
        alone
    }

    /// What keeping it costs.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fragments that are there.
    pub(super) fn pieces(&self) -> u64 {
        self.pieces.len() as u64
    }

    pub(super) fn add(&mut self, offset: u16, more: bool, piece: Piece) -> Added {
        if self.is_discarded || self.is_copy(offset, more, &piece) {
            return Added::Useless;
        }
        let start = u32::from(offset);
        let end = start + piece.length();
        //= https://www.rfc-editor.org/rfc/rfc5722#section-4
        //# the entire datagram (and any constituent fragments, including those not yet received) MUST be silently
        //# discarded.
        if self.contradicts(start, end, more) || self.pieces.len() >= FRAGMENTS {
            *self = Self { is_discarded: true, ..Self::new(self.serial, self.due_us) };
            return Added::Contradicts;
        }
        if !more {
            self.end = Some(end);
        }
        self.filled += end - start;
        self.bytes += piece.packet.len() + FRAGMENT_OVERHEAD;
        self.pieces.insert(offset, piece);
        if self.end == Some(self.filled) { Added::Completes } else { Added::Waits }
    }

    /// Whether it is one that is there already, byte for byte (RFC 8200 §4.5 allows to drop such).
    fn is_copy(&self, offset: u16, more: bool, piece: &Piece) -> bool {
        self.pieces.get(&offset).is_some_and(|there| {
            let ends = self.end == Some(u32::from(offset) + there.length());
            there.data() == piece.data() && more != ends
        })
    }

    /// Whether it overlaps another, or lies behind the end, or ends where the datagram does not.
    fn contradicts(&self, start: u32, end: u32, more: bool) -> bool {
        let reaches = |(offset, piece): (&u16, &Piece)| u32::from(*offset) + piece.length();
        let before = self.pieces.range(..=start as u16).next_back().map_or(0, reaches);
        let after = self.pieces.range(start as u16..).next().map_or(LONGEST, |(offset, _)| u32::from(*offset));
        let last = self.pieces.last_key_value().map_or(0, reaches);
        // A second last fragment that ends elsewhere ends before the first one does, or behind it.
        let beyond = self.end.is_some_and(|known| end > known) || (!more && end < last);
        before > start || after < end || beyond
    }

    /// The packet, if the fragments fit together.
    pub(super) fn whole(self) -> Option<Whole> {
        let length = self.end? as usize;
        let parts = self
            .pieces
            .iter()
            .map(|(offset, piece)| (*offset, (u32::from(*offset) + piece.length()) as usize != length, piece.data()));
        let data = whole::join(length, parts)?;
        let first = self.pieces.get(&0)?;
        let packet = whole::packet(&Packet::read(&first.packet)?, &data)?;
        Some(Whole { packet, ifindex: first.ifindex })
    }

    /// Its fragments as they came.
    pub(super) fn into_fragments(self) -> impl Iterator<Item = Whole> {
        self.pieces.into_values().map(|piece| Whole { packet: piece.packet, ifindex: piece.ifindex })
    }
}
