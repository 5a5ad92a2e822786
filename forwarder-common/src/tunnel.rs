//! Which tunnel packet is taken: one that is whole and of this cluster, comes from the address of the node that it
//! names, has that node's tag, and was sent just now. The decapsulating program and the daemon's socket ask here.
//!
//! What then becomes of the packet inside is theirs to say.

use crate::{
    abi::Address,
    clock::{Clock, Time},
    coded,
    geneve::{self, Head, Inner, Kind},
    ids::EtherType,
    net::{self, Ip},
    outcome::Outcome,
    reader::Reader,
};

coded! {
    /// Why a tunnel packet is not taken. It passes as it is.
    pub enum Refused {
        /// It is no well-formed tunnel packet of this cluster.
        Malformed = 1,
        /// It does not come from the address of the node that it names.
        UnknownPeer = 2,
        /// Its tag is wrong.
        BadTag = 3,
        /// The packet inside is for no service. Only the program looks.
        NotService = 4,
        /// The kernel failed.
        Failed = 5,
        /// It was not sent just now.
        Stale = 6,
    }
}

impl Refused {
    /// Where the packet's way ends.
    #[inline(always)] // a few compares
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Malformed => Outcome::DecapMalformed,
            Self::UnknownPeer => Outcome::DecapUnknownPeer,
            Self::BadTag => Outcome::DecapBadTag,
            Self::NotService => Outcome::DecapNotService,
            Self::Failed => Outcome::DecapFailed,
            Self::Stale => Outcome::DecapStale,
        }
    }
}

/// What the receiver knows.
pub trait Receiver {
    /// A node of the cluster.
    type Peer: Copy;

    /// The cluster's network identifier.
    fn vni(&self) -> u32;

    /// The node with this id, its underlay address and its clock; `None`: there is none.
    fn peer(&self, node: u16) -> Option<(Self::Peer, Address, Clock)>;

    /// The key of the tag of a key epoch.
    fn tag_key(&self, key_epoch: u8) -> [u64; 2];

    /// The time by the receiver's clock.
    fn now(&self) -> Time;
}

/// A tunnel packet that is taken.
#[derive(Clone, Copy, Debug)]
pub struct Taken<P> {
    /// Who sent it.
    pub peer: P,
    /// What it says of itself.
    pub head: Head,
    /// Where the packet inside is.
    pub inside: Ip,
    /// What the tag covers of the packet inside.
    pub inner: Inner,
    /// Its protocol.
    pub protocol: EtherType,
}

/// Takes the tunnel packet whose Geneve header is at `start`, in a datagram from `from` that goes to `end`.
///
/// # Errors
/// It may not be taken.
#[inline(always)] // of the program that decapsulates: its packet pointers do not cross a call
pub fn take<R: Reader, T: Receiver>(
    r: &R,
    (start, end): (usize, usize),
    from: Address,
    receiver: &T,
) -> Result<Taken<T::Peer>, Refused> {
    let geneve::Received { protocol, vni, head, tag } = geneve::receive(r, start).ok_or(Refused::Malformed)?;
    let inside = net::ip(r, start + geneve::TUNNEL - net::UDP, protocol).ok_or(Refused::Malformed)?;
    if vni != receiver.vni() || inside.end != end {
        return Err(Refused::Malformed);
    }
    let (peer, address, clock) = receiver.peer(head.node).ok_or(Refused::UnknownPeer)?;
    if address != from {
        return Err(Refused::UnknownPeer);
    }
    let inner = Inner::read(r, &inside).ok_or(Refused::Malformed)?;
    if inner.tag(receiver.tag_key(head.key_epoch), &head) != tag {
        return Err(Refused::BadTag);
    }
    let has_time = match head.kind {
        Kind::Data | Kind::Reassemble | Kind::Local | Kind::Relay => true,
        // Whoever sends a question or an answer again learns nothing and changes nothing: an answer counts by its
        // ticket. By them the peers' clocks are learned.
        Kind::Ask | Kind::Probe | Kind::Answer => false,
    };
    if has_time && !clock.is_recent(head.time, receiver.now()) {
        return Err(Refused::Stale);
    }
    Ok(Taken { peer, head, inside, inner, protocol })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use super::*;
    use crate::geneve::Sender;

    const KEYS: [[u64; 2]; 2] = [[1, 2], [3, 4]];
    const VNI: u32 = 9;
    const PEER: u16 = 2;
    const FROM: Address = Address::v4([10, 9, 0, 2]);
    const NOW: Time = Time(70_000);
    /// How far the peer's clock is ahead.
    const AHEAD: u32 = 1000;
    const SENT: Time = Time(NOW.0 + AHEAD);
    /// Ethernet, IPv4 and UDP headers before the Geneve header.
    const START: usize = 42;

    struct Node;

    impl Receiver for Node {
        type Peer = u16;

        fn vni(&self) -> u32 {
            VNI
        }

        fn peer(&self, node: u16) -> Option<(u16, Address, Clock)> {
            (node == PEER).then_some((node, FROM, Clock(AHEAD)))
        }

        fn tag_key(&self, key_epoch: u8) -> [u64; 2] {
            geneve::tag_key(KEYS, key_epoch)
        }

        fn now(&self) -> Time {
            NOW
        }
    }

    /// An IPv4 datagram of 8 bytes.
    fn packet() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 36, 0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 10];
        packet.extend([19, 196, 19, 196, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        packet
    }

    /// The packet in a frame, as the node that `head` names sends it with this tag key.
    fn frame(head: Head, vni: u32, key: [u64; 2]) -> Vec<u8> {
        let packet = packet();
        let bytes = packet.as_slice();
        let inner = Inner::read(&bytes, &net::packet(&bytes).unwrap()).unwrap();
        let words = geneve::header(&Sender { head, vni, key }, &inner);
        [vec![0; START], words.iter().flat_map(|word| word.to_le_bytes()).collect(), packet].concat()
    }

    fn taken(frame: &[u8], end: usize, from: Address) -> Result<Kind, Refused> {
        take(&frame, (START, end), from, &Node).map(|taken| {
            assert_eq!((taken.peer, taken.head.node, taken.protocol), (PEER, PEER, EtherType::IPV4));
            assert_eq!(frame[taken.inside.start..taken.inside.end], packet());
            taken.head.kind
        })
    }

    #[test]
    fn a_tunnel_packet_is_taken_if_all_of_it_is_right() {
        let data = Head::new(PEER, Kind::Data, 1, SENT);
        let later = Head { time: Time(SENT.0 - Time::WINDOW - 1), ..data };
        let stranger = Head { node: 3, ..data };
        let elsewhere = Address::v4([10, 9, 0, 3]);
        let whole = frame(data, VNI, KEYS[1]);
        let end = whole.len();
        let mut cut = whole.clone();
        cut.truncate(end - 20);
        type Row<'a> = (&'a str, &'a [u8], usize, Address, Result<Kind, Refused>);
        let table: &[Row<'_>] = &[
            ("all is right", &whole, end, FROM, Ok(Kind::Data)),
            ("bytes behind it", &[whole.as_slice(), &[0; 9]].concat(), end, FROM, Ok(Kind::Data)),
            ("the datagram is longer", &[whole.as_slice(), &[0]].concat(), end + 1, FROM, Err(Refused::Malformed)),
            ("the datagram is shorter", &whole, end - 1, FROM, Err(Refused::Malformed)),
            ("another cluster", &frame(data, VNI + 1, KEYS[1]), end, FROM, Err(Refused::Malformed)),
            ("no header", &[0; 200], end, FROM, Err(Refused::Malformed)),
            ("a node that is none", &frame(stranger, VNI, KEYS[1]), end, FROM, Err(Refused::UnknownPeer)),
            ("another address", &whole, end, elsewhere, Err(Refused::UnknownPeer)),
            ("another key", &frame(data, VNI, KEYS[0]), end, FROM, Err(Refused::BadTag)),
            ("a replay", &frame(later, VNI, KEYS[1]), end, FROM, Err(Refused::Stale)),
        ];
        for (why, frame, end, from, expected) in table {
            assert_eq!(taken(frame, *end, *from), *expected, "{why}");
        }
        // Each byte of header and tag, and of what the tag covers, counts.
        for at in (START..START + 32).chain([START + 32 + 13, START + 32 + 17, START + 32 + 21]) {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            assert!(taken(&bad, end, FROM).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_belongs_to_a_transaction_must_be_recent_and_questions_need_not() {
        use Kind::{Answer, Ask, Data, Local, Probe, Reassemble, Relay};
        for (kinds, expected) in [(&[Data, Reassemble, Local, Relay][..], false), (&[Ask, Probe, Answer], true)] {
            for kind in kinds {
                let old = frame(Head::new(PEER, *kind, 0, Time(SENT.0 - Time::WINDOW - 1)), VNI, KEYS[0]);
                let got = taken(&old, old.len(), FROM);
                assert_eq!(got, if expected { Ok(*kind) } else { Err(Refused::Stale) });
                let young = frame(Head::new(PEER, *kind, 0, SENT), VNI, KEYS[0]);
                assert_eq!(taken(&young, young.len(), FROM), Ok(*kind));
            }
        }
    }
}
