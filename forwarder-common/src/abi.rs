//! The layout of every map that kernel and daemon share. Padding is named and zero; zero means unset.
//!
//! A change of any layout raises [`VERSION`]: a daemon takes over pinned maps of its own version only.

use core::net::IpAddr;

use crate::{
    bound::Costs,
    clock::Clock,
    hash,
    ids::{Epochs, NodeId},
};

/// The version of the map layouts.
pub const VERSION: u32 = 3;

/// Entries of [`Peer`] next hops: two halves of one per node id, so that the daemon can write the idle half.
pub const PEER_SLOTS: u32 = 2 * NODES;
/// Node ids with their slot zero ("nobody").
pub const NODES: u32 = NodeId::MAX as u32 + 1;
/// Slots of the map that says who reassembles which fragments, see `net::datagram_slot`.
pub const DATAGRAM_SLOTS: u32 = 1024;
/// Slots by which new transactions are handed out to healthy peers: the low bits of the request key.
pub const SUCCESSOR_SLOTS: u32 = DATAGRAM_SLOTS;
/// Words of the port bitmap: 65,536 ports.
pub const PORT_WORDS: u32 = 1024;
/// The largest number of services: as many as have a number other than [`NO_SERVICE`].
pub const MAX_SERVICES: u32 = NO_SERVICE as u32;
/// Stands for no service where a claim's service is told: nobody knows what it was made for.
pub const NO_SERVICE: u8 = u8::MAX;
/// Bytes of the ring buffer for packets in the daemon's hands: about 2,000 of the usual size.
pub const PUNT_BYTES: u32 = 4 << 20;
/// Bytes of the ring buffer for claim events: about 105,000 events of 32 bytes with their headers of 8.
pub const EVENT_BYTES: u32 = 4 << 20;

/// An IP address in 16 bytes; IPv4 is mapped (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2), so that both families share a path.
#[derive(Clone, Copy, Debug, Eq, Default)]
#[repr(C)]
pub struct Address(pub [u32; 4]);

impl PartialEq for Address {
    #[inline(always)] // the derived form becomes one compare of 128 bits, which eBPF has not
    fn eq(&self, other: &Self) -> bool {
        let (Self([a, b, c, d]), Self([e, f, g, h])) = (self, other);
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
    }
}

impl Address {
    /// The third word of a mapped IPv4 address as it lies in memory.
    pub const MAPPED: u32 = 0xffff_u32.to_be();

    /// From the four bytes of an IPv4 address.
    #[must_use]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self([0, 0, Self::MAPPED, u32::from_ne_bytes(octets)])
    }

    /// From the sixteen bytes of an IPv6 address.
    #[must_use]
    pub const fn v6(o: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ])
    }

    /// Who pays for what comes from there, as a number: an IPv6 host has its /64 for the taking.
    #[must_use]
    #[inline(always)] // a few instructions
    pub const fn payer(&self) -> u64 {
        let Self([a, b, _, d]) = *self;
        if self.is_v4() { d as u64 } else { (a as u64) << 32 | b as u64 }
    }

    /// Of either family.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }

    /// Whether this is an IPv4 address.
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::MAPPED
    }
}

/// Key of the services map: a VIP with a service's port, or a source; with port 0 for "some service or source has this
/// address".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct ServiceKey {
    /// The VIP.
    pub vip: Address,
    /// The port in network byte order; 0 for the address alone.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// Slots of the services map: eight times as many as services, sources and addresses alone at most, so that next to
/// none collide.
pub const SERVICE_SLOTS: u32 = 32 * (MAX_SERVICES + 1);
/// Slots from its own one on in which a service may lie.
pub const SERVICE_PROBES: u32 = 8;

impl ServiceKey {
    /// The slot of the services map from which on this key is looked for.
    #[must_use]
    #[inline(always)] // a few instructions, where a hash map's look-up is a whole parse of headers
    pub const fn slot(&self) -> u32 {
        let Address([a, b, c, d]) = self.vip;
        let mixed = ((a ^ c ^ self.port as u32) as u64) << 32 | (b ^ d) as u64;
        // The upper bits of the product depend on all bits of the key.
        (mixed.wrapping_mul(hash::GOLDEN) >> (64 - SERVICE_SLOTS.trailing_zeros())) as u32
    }

    /// Whether this is the same key.
    #[must_use]
    #[inline(always)] // as of addresses
    pub const fn is(&self, other: &Self) -> bool {
        let (Address([a, b, c, d]), Address([e, f, g, h])) = (self.vip, other.vip);
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) | (self.port ^ other.port) as u32 == 0
    }
}

/// A slot of the services map; unset while the service's flags are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct ServiceSlot {
    /// The key.
    pub key: ServiceKey,
    /// The service.
    pub service: Service,
}

/// Value of the services map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Service {
    /// [`SERVICE_SET`] or [`SERVICE_SOURCE`], and [`AFFINITY_CALL`].
    pub flags: u32,
    /// Lifetime in ticks of a claim of a service with affinity `call`.
    pub call_ticks: u16,
    /// The epoch under which its messages claim.
    pub epoch: u8,
    /// Its place in the daemon's list of services, below [`MAX_SERVICES`].
    pub index: u8,
}

impl Service {
    /// The entry of one of its sources.
    #[must_use]
    pub const fn source(&self) -> Self {
        Self { flags: self.flags & !SERVICE_SET | SERVICE_SOURCE, ..*self }
    }
}

/// The entry is a service.
pub const SERVICE_SET: u32 = 1;
/// The service's key is the Call-ID alone.
pub const AFFINITY_CALL: u32 = 2;
/// The entry is no service, but another address and port from which a service's proxy sends: the service's are its
/// epoch, its place and its affinity. What arrives there is looked at by nobody.
pub const SERVICE_SOURCE: u32 = 4;
/// The largest number of such sources.
pub const MAX_SOURCES: u32 = MAX_SERVICES;

/// The daemon's settings for the programs; entry 0 of its map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Config {
    /// Key of the claim hash.
    pub hash_key: [u64; 2],
    /// Keys of the tunnel tag: the one of an even and the one of an odd key epoch.
    pub tag_key: [[u64; 2]; 2],
    /// This node's underlay address.
    pub underlay: Address,
    /// Claim-table buckets less one.
    pub bucket_mask: u32,
    /// Geneve network identifier of the cluster, 24 bits.
    pub vni: u32,
    /// This node's id; 0 means not configured, and every packet passes.
    pub node: u16,
    /// This node's live epochs, as [`Epochs::bits`].
    pub epochs: u16,
    /// Peers that are up.
    pub peers_up: u16,
    /// Lifetimes in ticks, see [`Lifetimes`].
    pub lifetimes: Lifetimes,
    /// The key epoch that sends.
    pub tag_epoch: u8,
    /// Zero.
    pub pad: u8,
    /// What packets cost that are sent to other nodes.
    pub costs: Costs,
}

impl Config {
    /// This node's live epochs: claims of others are ineffective.
    #[must_use]
    #[inline(always)] // one load
    pub const fn epochs(&self) -> Epochs {
        Epochs::from_bits(self.epochs)
    }
}

/// What this node does with what nobody owns: one word, so that it is written at once.
///
/// A daemon renews its lease all the time. When it is over the daemon is gone: then nobody hears of claims that are
/// made here, so new transactions and what only a daemon can finish go to healthy peers, until [`LeaseWord::GRACE_NS`]
/// has gone and nothing that the maps say of peers can be relied on any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct LeaseWord(pub u64);

impl LeaseWord {
    /// How long peers are taken to be as the last daemon has said, in nanoseconds: more than a restart takes, and as
    /// long as they take this node for up without a daemon.
    pub const GRACE_NS: u64 = 60_000_000_000;

    const DIVERTS: u64 = 1 << 63;
    const DRAINS: u64 = 1 << 62;

    /// A node that sends new transactions to healthy peers (`diverts`) or not, that no longer makes its claims other
    /// than those of INVITEs longer (`drains`) or does, and whose daemon lives until `until_ns` of `CLOCK_MONOTONIC` at
    /// least.
    #[must_use]
    pub const fn new(diverts: bool, drains: bool, until_ns: u64) -> Self {
        let flags = if diverts { Self::DIVERTS } else { 0 } | if drains { Self::DRAINS } else { 0 };
        Self(flags | (until_ns & !(Self::DIVERTS | Self::DRAINS)))
    }

    /// Whether the daemon lives, and can be given what only a daemon finishes.
    #[must_use]
    #[inline(always)] // one compare
    pub const fn has_daemon(self, now_ns: u64) -> bool {
        now_ns < self.until_ns()
    }

    /// Whether the peers are as the maps say, as far as one can know at `now_ns`.
    #[must_use]
    #[inline(always)] // a few instructions
    pub const fn knows_peers(self, now_ns: u64) -> bool {
        now_ns < self.until_ns() + Self::GRACE_NS
    }

    /// Whether a new transaction goes to a healthy peer.
    #[must_use]
    #[inline(always)] // as above
    pub const fn diverts(self, now_ns: u64) -> bool {
        self.knows_peers(now_ns) && (self.0 & Self::DIVERTS != 0 || !self.has_daemon(now_ns))
    }

    /// Whether the daemon says that new transactions go to healthy peers.
    #[must_use]
    pub const fn says_divert(self) -> bool {
        self.0 & Self::DIVERTS != 0
    }

    /// Whether only claims of INVITE transactions are made longer.
    #[must_use]
    #[inline(always)] // one instruction
    pub const fn drains(self) -> bool {
        self.0 & Self::DRAINS != 0
    }

    /// Until when the daemon lives at least, in nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    #[inline(always)] // one instruction
    pub const fn until_ns(self) -> u64 {
        self.0 & !(Self::DIVERTS | Self::DRAINS)
    }
}

/// Lifetimes of claims in ticks, see `lifetime.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Lifetimes {
    /// INVITE or 101-199 sent: Timer C + 64·T1 + T4.
    pub proceeding: u16,
    /// 3xx-6xx to INVITE sent, CANCEL seen: 2·64·T1 + T4.
    pub failed: u16,
    /// 2xx to INVITE sent, and anything else: 64·T1 + T4.
    pub ended: u16,
    /// Calls, subscriptions and bindings of services with affinity `call`.
    pub call: u16,
}

/// One word per node id: everything that a verdict needs to know of an owner, written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Node(pub u64);

impl Node {
    const UP: u64 = 1 << 0;
    const HOP: u64 = 1 << 1;
    const HALF: u64 = 1 << 2;
    const EPOCHS_SHIFT: u32 = 16;

    /// A node that is up or not, with these live epochs, whose slot is in half 0 or 1 of the peers map if one was
    /// written.
    #[must_use]
    pub const fn new(up: bool, epochs: Epochs, hop: Option<u32>) -> Self {
        let hop = match hop {
            None => 0,
            Some(0) => Self::HOP,
            Some(_) => Self::HOP | Self::HALF,
        };
        Self((up as u64) | hop | (epochs.bits() as u64) << Self::EPOCHS_SHIFT)
    }

    /// Whether the node is up.
    #[must_use]
    #[inline(always)] // one instruction
    pub const fn is_up(self) -> bool {
        self.0 & Self::UP != 0
    }

    /// The node's live epochs: its claims of others are ineffective.
    #[must_use]
    #[inline(always)] // one instruction
    pub const fn epochs(self) -> Epochs {
        Epochs::from_bits((self.0 >> Self::EPOCHS_SHIFT) as u16)
    }

    /// The same node, down.
    #[must_use]
    pub const fn down(self) -> Self {
        Self(self.0 & !Self::UP)
    }

    /// Index of the node's slot in the peers map, if one was written.
    #[must_use]
    #[inline(always)] // two instructions
    pub const fn hop(self, id: u16) -> Option<u32> {
        if self.0 & Self::HOP == 0 {
            return None;
        }
        Some(id as u32 + if self.0 & Self::HALF == 0 { 0 } else { NODES })
    }
}

/// How to reach a peer: prepared by the daemon from routes and neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Peer {
    /// The peer's underlay address.
    pub address: Address,
    /// This node's underlay address as the peer sees it.
    pub source: Address,
    /// Interface that leads there; 0 means unset.
    pub ifindex: u32,
    /// Largest outer IP packet in bytes.
    pub mtu: u32,
    /// MAC address of the next hop.
    pub destination_mac: [u8; 6],
    /// MAC address of the interface.
    pub source_mac: [u8; 6],
    /// The peer's clock.
    pub clock: Clock,
    /// Which of this node's services the peer has as well.
    pub served: Served,
}

/// Which services of this node a peer has as well, a bit each by [`Service::index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Served(pub [u64; 4]);

impl Served {
    /// All services that a node may have.
    pub const ALL: Self = Self([u64::MAX; 4]);

    /// The same with this one.
    #[must_use]
    pub const fn with(self, index: u8) -> Self {
        let (Self([a, b, c, d]), bit) = (self, 1 << (index & 63));
        match index >> 6 {
            0 => Self([a | bit, b, c, d]),
            1 => Self([a, b | bit, c, d]),
            2 => Self([a, b, c | bit, d]),
            _ => Self([a, b, c, d | bit]),
        }
    }

    /// Whether this one is among them.
    #[must_use]
    #[inline(always)] // a choice of four words, which needs no bounds check
    pub const fn has(&self, index: u8) -> bool {
        let Self([a, b, c, d]) = *self;
        let word = match index >> 6 {
            0 => a,
            1 => b,
            2 => c,
            _ => d,
        };
        word >> (index & 63) & 1 != 0
    }
}

/// What the egress program tells the daemon: a claim of this node, new or longer, or what a message says of the
/// transaction that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct ClaimEvent {
    /// The key.
    pub key: u64,
    /// What the key is tied to, 0 for nothing: the request key of a reply key; with a request key, the key that it and
    /// the top Via's branch give, of a reply that of the server transaction, of an ACK its own.
    pub other: u64,
    /// `CLOCK_MONOTONIC` in nanoseconds when the packet left.
    pub at_ns: u64,
    /// Lifetime in ticks from then on, which the message gives to the claim, or would if the claim were new.
    pub ticks: u16,
    /// The epoch of the claim; with [`EVENT_KEPT`] that of the service.
    pub epoch: u8,
    /// [`EVENT_NEW`], [`EVENT_KEPT`], or 0 for a refresh.
    pub flags: u8,
    /// The place of the service in the daemon's list, or [`NO_SERVICE`].
    pub service: u8,
    /// Code of the [`crate::rest::KeyKind`].
    pub kind: u8,
    /// Code of the [`crate::rest::Class`] that the message gives to the claim.
    pub class: u8,
    /// Code of the [`crate::lifetime::Sign`] of the message.
    pub sign: u8,
}

/// The claim is new.
pub const EVENT_NEW: u8 = 1;
/// The claim is as it was: the event is for what the message says of its transaction.
pub const EVENT_KEPT: u8 = 2;

/// Head of a record in the ring buffer of punted packets; the frame follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Punt {
    /// Interface that the frame arrived at.
    pub ifindex: u32,
    /// Bytes of the frame; the record may be longer.
    pub length: u32,
    /// Number of the outcome: one of those that are punted.
    pub reason: u32,
    /// Payload bytes per datagram if the packet was sent as several (generic segmentation offload), else zero.
    pub segment: u32,
}

/// What the `explain` program found in a frame; entry 0 of its map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Explained {
    /// The request key `L`.
    pub request_key: u64,
    /// The reply key `X`.
    pub reply_key: u64,
    /// [`EXPLAINED_KEY`], or [`EXPLAINED_OUTCOME`] and the outcome's number that ended the parse.
    pub result: u32,
    /// The CSeq number.
    pub cseq: u32,
    /// Offset and length of the Call-ID in the frame.
    pub call_id: [u16; 2],
    /// Offset and length of the top Via branch in the frame.
    pub branch: [u16; 2],
    /// Kind of message: 1 request, 2 ACK, 3 CANCEL, 4 response.
    pub kind: u16,
    /// Status code of a response.
    pub status: u16,
    /// Zero.
    pub pad: u32,
}

/// The program found the keys.
pub const EXPLAINED_KEY: u32 = 1;
/// The parse ended early; the lower byte is the outcome's number.
pub const EXPLAINED_OUTCOME: u32 = 0x100;

const _: () = {
    assert!(size_of::<Address>() == 16);
    assert!(size_of::<ServiceKey>() == 20);
    assert!(size_of::<Service>() == 8);
    assert!(size_of::<ServiceSlot>() == 28);
    assert!(size_of::<Config>() == 104);
    assert!(size_of::<LeaseWord>() == 8);
    assert!(size_of::<Peer>() == 88);
    assert!(size_of::<ClaimEvent>() == 32);
    assert!(size_of::<Punt>() == 16);
    assert!(size_of::<Explained>() == 40);
};
