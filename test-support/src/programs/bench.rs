//! A loaded, configured dataplane that nothing is attached to, and what a test asks of it.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use aya::maps::{MapData, RingBuf};
use forwarder::{
    dataplane::{Dataplane, OwnClaim, Settings, monotonic_ns},
    identity::Secrets,
};
use forwarder_common::{
    abi::{self, Address, ClaimEvent, Config, Lifetimes, Peer, Punt, Served, ServiceKey},
    bound::Costs,
    checksum,
    clock::{Clock, Time},
    geneve::{self, Head, Headers, Inner, Kind, OuterV4, OuterV6, Sender},
    ids::{Epoch, Epochs, EtherType, NodeId, Tick},
    keys::Affinity,
    lifetime, net,
    outcome::Outcome,
    question::{self, Answer},
    rest::{Class, KeyKind, Purpose},
    sip::{self, Method},
    table::Entry,
};

use forwarder_core::failover::{Given, Lease};

use super::frames::{Frame, HASH_KEY, vip};

/// `XDP_PASS`.
pub const PASS: u32 = 2;
/// `XDP_TX`.
pub const TX: u32 = 3;
/// `XDP_DROP`: the daemon has it.
pub const DROP: u32 = 1;
/// An address family.
pub const V4: bool = false;
/// An address family.
pub const V6: bool = true;

/// The key of the tunnel's tag, of key epoch 0.
pub const TAG_KEY: [u64; 2] = [11, 22];
/// The key of the tag of an odd key epoch, which replaces the first one.
const OTHER_TAG_KEY: [u64; 2] = [55, 66];
const SECRETS: Secrets = Secrets { hash_key: HASH_KEY, tag_key: [TAG_KEY, [0; 2]], tag_epoch: 0 };
/// The network identifier of the tunnel.
pub const VNI: u32 = 0x0012_3456;
/// The interface that test runs arrive at: the loopback of any namespace.
const IFINDEX: u32 = 1;
/// The epoch of all nodes whose test names no other.
pub const EPOCH: Epoch = Epoch::new(5);
/// How long the claims of a service of affinity `call` last, in ticks.
pub const CALL_TICKS: u16 = 1700;
const LIFETIME_MS: u64 = 60_000;
/// Those of RFC 3261's usual T1 and of the Timer C that the configuration has if it says nothing.
const LIFETIMES: Lifetimes = Lifetimes { call: CALL_TICKS, ..lifetime::of_timers(500, 180_000, 0) };

/// The node, and what surrounds it.
pub struct Bench {
    dataplane: Dataplane,
    lease: Lease,
    events: RingBuf<MapData>,
    punts: RingBuf<MapData>,
    node: u16,
    underlay: bool,
    /// As they were asked for: family and port of each, and flags of all.
    services: Vec<(bool, u16)>,
    flags: u32,
}

/// An address as the maps have it.
pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => Address::v4(v4.octets()),
        IpAddr::V6(v6) => Address::v6(v6.octets()),
    }
}

/// The underlay address of a node.
pub fn underlay(node: u16, v6: bool) -> Address {
    if v6 { address(format!("fd09::{node}").parse().unwrap()) } else { Address::v4([10, 9, 0, node as u8]) }
}

fn id(node: u16) -> NodeId {
    NodeId::new(node).unwrap()
}

/// Where frames leave from that have another source than the VIP.
pub fn other_source(v6: bool) -> IpAddr {
    if v6 { "2001:db8::90".parse().unwrap() } else { "192.0.2.138".parse().unwrap() }
}

impl Bench {
    /// A node with the service over both families; its underlay is IPv6 if `v6`.
    pub fn new(node: u16, v6: bool) -> Self {
        Self::with_services(node, v6, &[(V4, 5060), (V6, 5060)])
    }

    /// The same with services of these families and ports.
    pub fn with_services(node: u16, v6: bool, services: &[(bool, u16)]) -> Self {
        Self::build(node, v6, services, 0, false, Costs::default())
    }

    /// The same with services that have sources: the other addresses from which frames leave here, each the source of
    /// the first service.
    pub fn with_sources(self) -> Self {
        Self::build(self.node, self.underlay, &self.services, self.flags, true, Costs::default())
    }

    /// The same with services of affinity `call`.
    pub fn with_affinity_call(self) -> Self {
        Self::build(self.node, self.underlay, &self.services, abi::AFFINITY_CALL, false, Costs::default())
    }

    /// The same with bounds on what is sent to peers.
    pub fn with_costs(self, costs: Costs) -> Self {
        Self::build(self.node, self.underlay, &self.services, self.flags, false, costs)
    }

    fn build(node: u16, v6: bool, places: &[(bool, u16)], flags: u32, has_sources: bool, costs: Costs) -> Self {
        let services = places.iter().map(|(v6, port)| {
            let key = ServiceKey { vip: address(vip(*v6)), port: port.to_be(), pad: 0 };
            (
                key,
                abi::Service {
                    flags: abi::SERVICE_SET | flags,
                    call_ticks: CALL_TICKS,
                    epoch: EPOCH.number(),
                    index: 0,
                },
            )
        });
        let config = Config {
            underlay: underlay(node, v6),
            vni: VNI,
            node,
            epochs: Epochs::EMPTY.with(EPOCH).bits(),
            lifetimes: LIFETIMES,
            costs,
            ..Config::default()
        };
        let source = |v6| (ServiceKey { vip: address(other_source(v6)), port: 5060_u16.to_be(), pad: 0 }, 0);
        let sources = if has_sources { vec![source(V4), source(V6)] } else { Vec::new() };
        let settings = Settings { config, secrets: SECRETS, services: services.collect(), sources, claims: 1024 };
        let mut dataplane = Dataplane::load(&settings, None).unwrap_or_else(|error| panic!("{error:#} (run as root)"));
        let events = dataplane.take_events().unwrap();
        let punts = dataplane.take_punts().unwrap();
        let lease = Lease { diverts: false, drains: false, until_us: 0 };
        Self { dataplane, lease, events, punts, node, underlay: v6, services: places.to_vec(), flags }
    }

    /// How long claims last.
    pub const fn lifetimes(&self) -> Lifetimes {
        LIFETIMES
    }

    /// Adds or changes a peer.
    pub fn peer(&mut self, node: u16, up: bool) {
        self.peer_in(node, up, EPOCH);
    }

    /// The same with its one live epoch.
    pub fn peer_in(&mut self, node: u16, up: bool, epoch: Epoch) {
        let peer = self.peer_entry(node, IFINDEX);
        self.dataplane.set_peer(id(node), up, Epochs::EMPTY.with(epoch), &peer).unwrap();
    }

    /// A peer that is up, with these live epochs.
    pub fn peer_with(&mut self, node: u16, epochs: Epochs) {
        let peer = self.peer_entry(node, IFINDEX);
        self.dataplane.set_peer(id(node), true, epochs, &peer).unwrap();
    }

    /// A peer that has these of the node's services and no others.
    pub fn peer_serving(&mut self, node: u16, services: &[u8]) {
        let served = services.iter().fold(Served::default(), |served, index| served.with(*index));
        let peer = Peer { served, ..self.peer_entry(node, IFINDEX) };
        self.dataplane.set_peer(id(node), true, Epochs::EMPTY.with(EPOCH), &peer).unwrap();
    }

    /// A peer that is up and whose next hop is not known.
    pub fn unresolved_peer(&mut self, node: u16) {
        let peer = self.peer_entry(node, 0);
        self.dataplane.set_peer(id(node), true, Epochs::EMPTY.with(EPOCH), &peer).unwrap();
    }

    fn peer_entry(&self, node: u16, ifindex: u32) -> Peer {
        Peer {
            address: underlay(node, self.underlay),
            source: underlay(self.node, self.underlay),
            ifindex,
            mtu: 1500,
            destination_mac: [2, 0, 0, 0, 0, node as u8],
            source_mac: [2, 0, 0, 0, 0, self.node as u8],
            clock: Clock::UNKNOWN,
            served: Served::ALL,
        }
    }

    /// A peer whose clock shows `theirs` now, and is known.
    pub fn peer_with_clock(&mut self, node: u16, theirs: Time) {
        let clock = Clock::new(theirs, Time::at(monotonic_ns()));
        let peer = Peer { clock, ..self.peer_entry(node, IFINDEX) };
        self.dataplane.set_peer(id(node), true, Epochs::EMPTY.with(EPOCH), &peer).unwrap();
    }

    /// A question of this node's daemon to `node`, on the wire.
    pub fn question(&self, node: u16, kind: Kind, keys: (u64, u64), ticket: u32) -> Frame {
        self.tunnelled(node, Head::new(self.node, kind, 0, Time(7)), &question::packet(keys.0, keys.1, ticket))
    }

    /// A packet of this node for `node` in the tunnel, as its daemon's socket sends it.
    pub fn tunnelled(&self, node: u16, head: Head, packet: &[u8]) -> Frame {
        let ip = net::packet(&packet).unwrap();
        let inner = Inner::read(&packet, &ip).unwrap();
        let (sender, peer) = (Sender { head, vni: VNI, key: TAG_KEY }, self.peer_entry(node, IFINDEX));
        let headers = if self.underlay {
            Headers::<OuterV6>::new(&peer, &sender, &inner).bytes().to_vec()
        } else {
            Headers::<OuterV4>::new(&peer, &sender, &inner).bytes().to_vec()
        };
        Frame::raw([headers.as_slice(), packet].concat())
    }

    /// What `node`'s programs answer in `sent`, given the question.
    pub fn check_answer(&self, sent: &[u8], asked: &Frame, node: u16) -> Answer {
        let asked = asked.bytes();
        let at = net::frame(&asked).unwrap().payload + geneve::TUNNEL + question::DESTINATION;
        let ip = net::frame(&sent).unwrap();
        let inside = net::ip(&sent, ip.payload + geneve::TUNNEL, EtherType::IPV6).unwrap();
        let answer = Answer::of(inside.destination(&sent).unwrap()).unwrap();
        // All else is as it was asked.
        let mut packet = asked[at - question::DESTINATION..].to_vec();
        packet[question::DESTINATION..question::DESTINATION + 16]
            .copy_from_slice(answer.address().0.map(u32::to_ne_bytes).as_flattened());
        self.check_tunnel_with(sent, &Frame::raw([[0; 14].as_slice(), &packet].concat()), node, Kind::Answer);
        answer
    }

    /// Has a node claim a key.
    pub fn claim(&self, node: u16, key: u64) {
        self.claim_in(node, key, EPOCH);
    }

    /// The same, for so many milliseconds.
    pub fn claim_for(&self, node: u16, key: u64, milliseconds: u64) {
        self.claim_until(node, key, EPOCH, milliseconds);
    }

    /// A claim that lasts for so many milliseconds.
    pub fn claim_until(&self, node: u16, key: u64, epoch: Epoch, milliseconds: u64) {
        let purpose = Purpose::of(KeyKind::Request, Class::Short);
        self.dataplane.set_claim(key, id(node), epoch, purpose, milliseconds);
    }

    /// The same in another epoch.
    pub fn claim_in(&self, node: u16, key: u64, epoch: Epoch) {
        self.claim_until(node, key, epoch, LIFETIME_MS);
    }

    /// The owner that the table has for a key, effective or not; 0 for none.
    pub fn owner(&self, key: u64) -> u16 {
        self.dataplane.claim(key).map_or(0, Entry::owner)
    }

    /// What the table has for a key, effective or not.
    pub fn entry(&self, key: u64) -> Option<Entry> {
        self.dataplane.claim(key)
    }

    /// Takes all claims out of the table.
    pub fn clear(&self) {
        let table = self.dataplane.claims();
        table.clear(0..table.slots(), |_, _| true);
    }

    /// How much longer the claim of a key lasts, in ticks; 0 without one.
    pub fn remaining(&self, key: u64) -> u16 {
        let now = Tick::at(monotonic_ns());
        self.dataplane.claim(key).map_or(0, |entry| entry.remaining(now) as u16)
    }

    /// The daemon claims a key for a message of this kind that egress could not read; whether peers must hear of it.
    pub fn claims_own(&self, key: u64, kind: sip::Kind, status: Option<u16>) -> bool {
        let service = self.dataplane.sender(address(vip(V4)), 5060).unwrap();
        let affinity = Affinity::of(Some(&service));
        let method = if kind == sip::Kind::Cancel { Method::Other } else { Method::Invite };
        let lifetime = self.dataplane.lifetime(kind, method, status, affinity);
        self.dataplane.claim_own((key, 0), KeyKind::Request, lifetime, &service).is_some()
    }

    /// The daemon says that the end of a claim of this node is another one.
    pub fn set_end(&self, key: u64, epoch: Epoch, was_ms: u64, remaining_ms: u64) {
        self.dataplane.set_end(key, epoch, Class::Short, was_ms, remaining_ms);
    }

    /// From now on the proxies claim under these epochs.
    pub fn epochs(&mut self, services: &[u64]) {
        let services = services.iter().copied().map(Epoch::new).collect();
        self.dataplane.set_epochs(&Given { services }).unwrap();
    }

    /// This node's effective claims, by key.
    pub fn own_claims(&self) -> BTreeMap<u64, OwnClaim> {
        self.dataplane.own_claims().map(|claim| (claim.key, claim)).collect()
    }

    /// The claims that egress told of since the last call.
    pub fn events(&mut self) -> Vec<ClaimEvent> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            assert_eq!(item.len(), size_of::<ClaimEvent>());
            // SAFETY: the length was compared, and any bytes are a value of this type.
            events.push(unsafe { item.as_ptr().cast::<ClaimEvent>().read_unaligned() });
        }
        events
    }

    /// The daemon takes what is punted, and lives, or it takes nothing.
    pub fn daemon(&mut self, lives: bool) {
        if lives {
            self.renew_lease();
            self.dataplane.open_punts().unwrap();
        } else {
            self.dataplane.close_punts().unwrap();
        }
    }

    /// This node takes all new transactions that another does not take; 0 for nobody.
    pub fn successor(&mut self, node: u16) {
        self.dataplane.set_successors(&[node; abi::SUCCESSOR_SLOTS as usize]).unwrap();
    }

    /// New transactions go to healthy peers, or no longer.
    pub fn divert(&mut self, diverts: bool) {
        self.set_lease(|lease| lease.diverts = diverts);
    }

    /// Whether the node takes no new transactions, for its operator wants it so.
    pub fn drain(&mut self, drains: bool) {
        self.set_lease(|lease| lease.drains = drains);
    }

    /// A daemon lives for as long as any test runs, on however slow a machine.
    pub fn renew_lease(&mut self) {
        self.set_lease(|lease| lease.until_us = monotonic_ns() / 1000 + 3_600_000_000);
    }

    /// The lease of the last daemon ended so many milliseconds ago.
    pub fn end_lease(&mut self, ago_ms: u64) {
        // A guest may not be up for that long, and then there was no such time.
        let is_up_ms = || monotonic_ns() / 1_000_000;
        std::thread::sleep(Duration::from_millis((ago_ms + 1).saturating_sub(is_up_ms())));
        self.set_lease(|lease| lease.until_us = (is_up_ms() - ago_ms) * 1000);
    }

    fn set_lease(&mut self, change: impl FnOnce(&mut Lease)) {
        change(&mut self.lease);
        self.dataplane.set_lease(self.lease).unwrap();
    }

    /// From now on the other secret of the tag is the one to send with.
    pub fn replace_tag(&mut self) {
        let secrets = Secrets { tag_key: [TAG_KEY, OTHER_TAG_KEY], tag_epoch: 1, ..SECRETS };
        self.dataplane.set_secrets(&secrets).unwrap();
    }

    /// Does it all on one CPU.
    pub fn pinned(&mut self, act: impl FnOnce(&mut Self)) {
        // SAFETY: both sets are locals of the right size; the thread gets its own set back.
        unsafe {
            let (mut before, mut one): (libc::cpu_set_t, libc::cpu_set_t) = (std::mem::zeroed(), std::mem::zeroed());
            assert_eq!(libc::sched_getaffinity(0, size_of_val(&before), &raw mut before), 0);
            let cpu = libc::sched_getcpu();
            libc::CPU_SET(usize::try_from(cpu).unwrap(), &mut one);
            assert_eq!(libc::sched_setaffinity(0, size_of_val(&one), &raw const one), 0);
            act(self);
            assert_eq!(libc::sched_setaffinity(0, size_of_val(&before), &raw const before), 0);
        }
    }

    /// All fragments are reassembled by this node.
    pub fn reassembler(&mut self, node: u16) {
        self.dataplane.set_reassemblers(&[node; abi::DATAGRAM_SLOTS as usize]).unwrap();
    }

    /// What was punted since the last call.
    pub fn punts(&mut self) -> Vec<(Punt, Vec<u8>)> {
        let mut punts = Vec::new();
        while let Some(item) = self.punts.next() {
            let (head, frame) = item.split_at(size_of::<Punt>());
            // SAFETY: the length was compared, and any bytes are a value of this type.
            let head = unsafe { head.as_ptr().cast::<Punt>().read_unaligned() };
            punts.push((head, frame[..head.length as usize].to_vec()));
        }
        punts
    }

    /// The frame is punted whole, under this outcome, and dropped.
    pub fn expect_punt(&mut self, frame: &Frame, outcome: &str) {
        self.run(frame, DROP, &[outcome]);
        let punts = self.punts();
        assert_eq!(punts.len(), 1, "{outcome}");
        let (head, bytes) = &punts[0];
        assert_eq!(bytes, frame.bytes());
        assert_eq!((head.ifindex, head.segment), (IFINDEX, 0));
        assert_eq!(Outcome::from_number(head.reason).map(Outcome::name), Some(outcome));
    }

    /// The tunnel packet's inside is punted under this outcome, as a frame: that frame.
    pub fn expect_punt_inside(&mut self, frame: &Frame, outcome: &str) -> Vec<u8> {
        self.run(frame, DROP, &[outcome]);
        let mut punts = self.punts();
        assert_eq!(punts.len(), 1, "{outcome}");
        let (head, bytes) = punts.remove(0);
        assert_eq!(Outcome::from_number(head.reason).map(Outcome::name), Some(outcome));
        bytes
    }

    /// The frame is punted, whatever for.
    pub fn expect_dropped(&mut self, frame: &Frame) {
        let claims = self.claims();
        let (did, _) = self.dataplane.test_ingress(frame.bytes()).unwrap();
        assert_eq!((did, self.punts().len()), (DROP, 1));
        assert!(self.claims() == claims, "ingress has changed the claim table");
    }

    /// Sends a frame many times, which takes less than a window of the punts' rate; how many were taken and how many
    /// passed.
    pub fn flood(&mut self, frame: &Frame, times: usize) -> (usize, usize) {
        let (claims, mut handed) = (self.claims(), 0);
        for _ in 0..times {
            let (action, _) = self.dataplane.test_ingress(frame.bytes()).unwrap();
            assert!(action == DROP || action == PASS);
            handed += usize::from(action == DROP);
        }
        assert!(self.claims() == claims, "ingress has changed the claim table");
        (handed, times - handed)
    }

    /// How many of these frames ingress sends to peers.
    pub fn count_sent<'a>(&mut self, frames: impl IntoIterator<Item = &'a Frame>) -> usize {
        let (claims, mut sent) = (self.claims(), 0);
        for frame in frames {
            let (action, _) = self.dataplane.test_ingress(frame.bytes()).unwrap();
            sent += usize::from(action == TX);
        }
        assert!(self.claims() == claims, "ingress has changed the claim table");
        sent
    }

    /// The frame passes ingress with this action, unchanged, and moves these outcomes by one and no other.
    pub fn expect(&mut self, frame: &Frame, action: u32, outcomes: &[&str]) {
        let out = self.run(frame, action, outcomes);
        assert!(out == frame.bytes(), "{outcomes:?}: the frame has changed");
    }

    /// The same for a frame that is changed: what it became.
    pub fn expect_changed(&mut self, frame: &Frame, action: u32, outcomes: &[&str]) -> Vec<u8> {
        let out = self.run(frame, action, outcomes);
        assert!(out != frame.bytes(), "{outcomes:?}: the frame has not changed");
        out
    }

    fn run(&mut self, frame: &Frame, action: u32, outcomes: &[&str]) -> Vec<u8> {
        let (before, claims) = (self.dataplane.outcomes().unwrap(), self.claims());
        let (did, out) = self.dataplane.test_ingress(frame.bytes()).unwrap();
        self.check_moved(&before, outcomes);
        assert!(self.claims() == claims, "{outcomes:?}: ingress has changed the claim table");
        assert_eq!(did, action, "{outcomes:?}");
        out
    }

    /// A frame arrives, and changes no claim: what is done with it, the outcomes that moved, and what it became.
    pub fn arrived(&mut self, frame: &Frame) -> (u32, Vec<(&'static str, u64)>, Vec<u8>) {
        let (before, claims) = (self.dataplane.outcomes().unwrap(), self.claims());
        let (did, out) = self.dataplane.test_ingress(frame.bytes()).unwrap();
        assert!(self.claims() == claims, "ingress has changed the claim table");
        (did, self.moved(&before), out)
    }

    /// All of the claim table.
    fn claims(&self) -> Vec<Entry> {
        self.dataplane.claims().entries().collect()
    }

    /// Egress sees the frame, lets it go on, and moves this outcome by one and no other.
    pub fn send(&mut self, frame: &Frame, outcome: &str) {
        assert_eq!(self.sent(frame), [(outcome, 1)]);
    }

    /// Egress sees the frame and lets it go on: the outcomes that moved, and by how much.
    pub fn sent(&mut self, frame: &Frame) -> Vec<(&'static str, u64)> {
        let before = self.dataplane.outcomes().unwrap();
        let did = self.dataplane.test_egress(frame.bytes()).unwrap();
        assert_eq!(did, -1, "TC_ACT_UNSPEC: the next program decides");
        self.moved(&before)
    }

    fn check_moved(&self, before: &BTreeMap<&str, u64>, outcomes: &[&str]) {
        let expected: Vec<_> = outcomes.iter().map(|name| (*name, 1)).collect();
        assert_eq!(self.moved(before), expected);
    }

    fn moved(&self, before: &BTreeMap<&str, u64>) -> Vec<(&'static str, u64)> {
        let after = self.dataplane.outcomes().unwrap().into_iter();
        after.filter(|(name, count)| before[name] != *count).map(|(name, count)| (name, count - before[name])).collect()
    }

    /// A tunnel packet to `node` with right lengths, checksums, tag and next hop, and `frame`'s packet in it.
    pub fn check_tunnel(&self, sent: &[u8], frame: &Frame, node: u16) {
        self.check_tunnel_with(sent, frame, node, Kind::Data);
    }

    /// The same as a packet of this kind.
    pub fn check_tunnel_with(&self, sent: &[u8], frame: &Frame, node: u16, kind: Kind) {
        self.check_tagged(sent, frame, node, kind, (TAG_KEY, 0));
    }

    /// The same after [`Self::replace_tag`].
    pub fn check_tunnel_of_other_tag(&self, sent: &[u8], frame: &Frame, node: u16) {
        self.check_tagged(sent, frame, node, Kind::Data, (OTHER_TAG_KEY, 1));
    }

    fn check_tagged(&self, sent: &[u8], frame: &Frame, node: u16, kind: Kind, (key, epoch): ([u64; 2], u8)) {
        let r = sent;
        assert_eq!(sent[..12], [2, 0, 0, 0, 0, node as u8, 2, 0, 0, 0, 0, self.node as u8]);
        let ip = net::frame(&r).unwrap();
        let udp = ip.udp(&r).unwrap();
        assert_eq!((ip.v6, udp.destination), (self.underlay, geneve::PORT));
        assert!(udp.source >= 0xc000);
        assert_eq!(ip.source(&r).unwrap(), underlay(self.node, self.underlay));
        assert_eq!(ip.destination(&r).unwrap(), underlay(node, self.underlay));
        let start = ip.payload + geneve::TUNNEL;
        assert_eq!(&sent[start..ip.end], frame.ip_packet());
        let got = geneve::receive(&r, ip.payload + 8).unwrap();
        let head = Head::new(self.node, kind, epoch, got.head.time);
        assert_eq!((got.vni, got.head), (VNI, head));
        let now = Time::at(monotonic_ns());
        assert!(Clock::new(now, now).is_recent(head.time, now), "{head:?} at {now:?}");
        let inside = net::ip(&r, start, got.protocol).unwrap();
        assert_eq!(got.tag, Inner::read(&r, &inside).unwrap().tag(key, &head));
        if !self.underlay {
            let header = sent[14..34].chunks(2).map(|pair| u64::from(u16::from_le_bytes([pair[0], pair[1]]))).sum();
            assert_eq!(checksum::fold(header), 0);
        }
    }
}
