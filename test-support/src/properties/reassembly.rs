//! Any bytes as fragments of a few datagrams, in any order, twice, overlapping and late: what comes out is what a list
//! of all bytes that came says, byte for byte, once; and of what overlaps nothing comes out.

use std::collections::BTreeMap;

use etherparse::Ipv4Header;
use forwarder_common::{net, outcome::Outcome};
use forwarder_core::slowpath::{Action, reassembly};

use crate::slowpath::{
    packets::{datagram, fragment, frame},
    world::World,
};

/// The longest IP payload in bytes (RFC 791 §3.1, RFC 8200 §3).
const LONGEST: usize = 65_535;
/// Bytes of one fragment: few datagrams of so many fragments stay within what one source may have.
const PIECE: usize = 4096;
/// Datagrams at the same time.
const DATAGRAMS: u8 = 4;

/// Plays the fragments in `data`, six bytes each.
///
/// # Panics
/// Something else comes out than the reference says.
pub fn reassembly(data: &[u8]) {
    let (mut world, mut reference) = (World::new(), Reference::default());
    for step in data.chunks_exact(6) {
        let [how, which, high, low, length, seed] = *step else { unreachable!("six bytes") };
        if how & 0x80 != 0 {
            let us = u64::from(u16::from_be_bytes([high, low])) * 100;
            world.advance(us);
            reference.advance(us);
        } else {
            let piece = Piece::new(how, which, u16::from_be_bytes([high, low]), length, seed);
            piece.arrive(&mut world, how & 0x10 != 0);
            let (expected, got) = (reference.add(piece), world.actions());
            match (expected, got.as_slice()) {
                (None, []) => {}
                (Some(expected), [Action::Inject { packet, .. }]) => assert_eq!(*packet, expected),
                (expected, got) => panic!("{got:?} where the reference has {expected:?}"),
            }
        }
        let ledger = world.path.ledger();
        assert_eq!(ledger.balance(), 0);
        assert_eq!(ledger.reassembling, reference.waiting());
    }
    world.advance(reassembly::AGE_US);
    let ledger = world.path.ledger();
    assert_eq!((ledger.reassembling, ledger.reassembling_bytes, world.actions().len()), (0, 0, 0));
}

/// One fragment.
#[derive(Clone)]
struct Piece {
    v6: bool,
    id: u16,
    start: usize,
    more: bool,
    data: Vec<u8>,
}

impl Piece {
    fn new(how: u8, which: u8, place: u16, length: u8, seed: u8) -> Self {
        let v6 = how & 1 != 0;
        // Mostly whole units, and near the others.
        let unit = if how & 4 != 0 { 1 } else { 8 };
        let start = usize::from(if how & 8 != 0 { place } else { place % 64 }) * 8 % (LONGEST + 1);
        let length = if how & 0x20 != 0 { PIECE } else { usize::from(length % 32) * unit };
        // Two copies of one place are the same bytes unless the seed differs.
        let data = (start..start + length).map(|at| (at / 8) as u8 ^ ((at as u8) << 3) ^ (seed / 128)).collect();
        // An IPv4 packet that begins and ends a datagram is no fragment.
        let more = how & 2 != 0 || (!v6 && start == 0);
        Self { v6, id: u16::from(which % DATAGRAMS), start, more, data }
    }

    /// The IP header that all fragments of the datagram have, but for what makes them fragments.
    fn header(&self) -> Vec<u8> {
        let mut header = datagram(self.v6, 5060, b"");
        header.truncate(if self.v6 { net::IPV6 } else { net::IPV4 });
        header
    }

    /// From the wire, or marked as a fragment by the node where it landed.
    fn arrive(&self, world: &mut World, is_tunnelled: bool) {
        let packet = fragment(&self.header(), self.id, self.start, &self.data, self.more);
        if is_tunnelled {
            world.tunnel(true, &packet);
        } else {
            world.punt(Outcome::PuntedFragment, &frame(&packet, 0, 0));
        }
    }

    fn end(&self) -> usize {
        self.start + self.data.len()
    }

    /// The whole datagram, whose IP payload is `data`.
    fn whole(&self, data: &[u8]) -> Option<Vec<u8>> {
        let mut header = self.header();
        if self.v6 {
            header[4..6].copy_from_slice(&u16::try_from(data.len()).ok()?.to_be_bytes());
        } else {
            let length = u16::try_from(header.len() + data.len()).ok()?;
            header[2..4].copy_from_slice(&length.to_be_bytes());
            header[4..6].copy_from_slice(&self.id.to_be_bytes());
            header[6..8].fill(0);
            let sum = Ipv4Header::from_slice(&header).expect("a header").0.calc_header_checksum();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        Some([&header, data].concat())
    }
}

/// What has come of one datagram.
struct Datagram {
    due_us: u64,
    pieces: Vec<Piece>,
    is_discarded: bool,
}

/// All that has come, in lists.
#[derive(Default)]
struct Reference {
    now_us: u64,
    datagrams: BTreeMap<(bool, u16), Datagram>,
}

impl Reference {
    fn advance(&mut self, us: u64) {
        self.now_us += us;
        let now_us = self.now_us;
        self.datagrams.retain(|_, datagram| datagram.due_us > now_us);
    }

    /// Fragments that wait.
    fn waiting(&self) -> u64 {
        self.datagrams.values().map(|datagram| datagram.pieces.len() as u64).sum()
    }

    /// The datagram that is whole now.
    fn add(&mut self, piece: Piece) -> Option<Vec<u8>> {
        // All but the last are whole units of eight bytes (RFC 8200 §4.5); one of nothing is nothing.
        if piece.data.is_empty() || (piece.more && !piece.data.len().is_multiple_of(8)) || piece.end() > LONGEST {
            return None;
        }
        //= https://www.rfc-editor.org/rfc/rfc6946#section-4
        //# A host that receives an IPv6 packet which includes a Fragment Header with the "Fragment Offset" equal to 0
        //# and the "M" bit equal to 0 MUST process such packet in isolation
        if piece.start == 0 && !piece.more {
            return piece.whole(&piece.data);
        }
        let (key, due_us) = ((piece.v6, piece.id), self.now_us + reassembly::AGE_US);
        let new = || Datagram { due_us, pieces: Vec::new(), is_discarded: false };
        let datagram = self.datagrams.entry(key).or_insert_with(new);
        let is_copy = |other: &Piece| (other.start, other.more, &other.data) == (piece.start, piece.more, &piece.data);
        if datagram.is_discarded || datagram.pieces.iter().any(is_copy) {
            return None;
        }
        let contradicts = |other: &Piece| {
            let overlaps = other.start < piece.end() && piece.start < other.end();
            let beyond = (!other.more && piece.end() > other.end()) || (!piece.more && other.end() > piece.end());
            overlaps || beyond
        };
        if datagram.pieces.iter().any(contradicts) || datagram.pieces.len() == reassembly::FRAGMENTS {
            (datagram.pieces, datagram.is_discarded) = (Vec::new(), true);
            return None;
        }
        datagram.pieces.push(piece);
        datagram.pieces.sort_by_key(|piece| piece.start);
        let end = datagram.pieces.iter().find(|piece| !piece.more)?.end();
        let data: Vec<u8> = datagram.pieces.iter().flat_map(|piece| piece.data.iter().copied()).collect();
        if data.len() != end {
            return None;
        }
        let datagram = self.datagrams.remove(&key)?;
        datagram.pieces.first()?.whole(&data)
    }
}
