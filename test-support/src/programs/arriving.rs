//! What becomes of a frame that arrives, by the host's account: its readers, its full reader of SIP and its table of
//! verdicts. The loaded ingress program does that, or punts.

use forwarder_common::{
    abi::{self, AFFINITY_CALL, Address, SERVICE_SET, Service},
    geneve::{self, Inner, Kind as Carried},
    ids::{Epoch, EtherType, IpProtocol, NodeId},
    keys::{Affinity, Keys, Seen},
    marks::Marks,
    net::{self, Ip},
    outcome::{Action, Hook, Outcome, Punt},
    sip::{
        Kind,
        fast::{self, NoKey},
        full,
    },
    verdict::{Found, Verdict, decide, look_up},
};

use super::{
    ME, PEER,
    bench::{Bench, CALL_TICKS, DROP, EPOCH, PASS, TAG_KEY, TX, V4, V6, VNI, address, underlay},
    frames::{Frame, HASH_KEY, vip},
};

/// A peer that is down.
pub const DOWN: u16 = 3;
/// The port of all services.
const PORT: u16 = 5060;
/// What the tunnel adds over IPv4, and the next hop's MTU.
const TUNNEL: usize = 20 + geneve::TUNNEL;
const MTU: usize = 1500;

/// The daemon, by its sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// It lives and takes what is handed to it.
    Lives,
    /// It is dead, and its lease is not over yet.
    Dead,
    /// Its lease is over.
    Over,
    /// Its lease was over long ago: the peers may be gone as well.
    Gone,
}

/// How the node stands.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Whether the services are of affinity `call`.
    pub is_call: bool,
    /// The daemon, by its sign of life.
    pub daemon: Daemon,
    /// Whether the peer is up.
    pub has_peer: bool,
    /// Who reassembles; 0 for nobody.
    pub reassembler: u16,
    /// Who takes what this node does not; 0 for nobody.
    pub successor: u16,
    /// Whether new transactions go to the successor.
    pub diverts: bool,
}

impl Setting {
    /// Brings a node about to stand so that stood as `before`.
    pub fn put(self, bench: &mut Bench, before: Option<Self>) {
        let differs = |of: fn(&Self) -> u16| before.is_none_or(|before| of(&before) != of(&self));
        if before.is_none() {
            bench.peer(DOWN, false);
        }
        if differs(|setting| setting.has_peer.into()) {
            bench.peer(PEER, self.has_peer);
        }
        if differs(|setting| setting.reassembler) {
            bench.reassembler(self.reassembler);
        }
        if differs(|setting| setting.successor) {
            bench.successor(self.successor);
        }
        if differs(|setting| setting.diverts.into()) {
            bench.divert(self.diverts);
        }
        if differs(|setting| setting.daemon as u16) {
            bench.daemon(self.daemon == Daemon::Lives);
            match self.daemon {
                Daemon::Lives | Daemon::Dead => bench.renew_lease(),
                Daemon::Over => bench.end_lease(3_000),
                Daemon::Gone => bench.end_lease(abi::LeaseWord::GRACE_NS / 1_000_000 + 3_000),
            }
        }
    }

    const fn knows_peers(self) -> bool {
        !matches!(self.daemon, Daemon::Gone)
    }

    /// Whether new transactions go to the successor.
    const fn sends_new_ones(self) -> bool {
        match self.daemon {
            Daemon::Lives | Daemon::Dead => self.diverts,
            Daemon::Over => true,
            Daemon::Gone => false,
        }
    }

    fn affinity(self) -> Affinity {
        let (flags, call_ticks) = if self.is_call { (AFFINITY_CALL, CALL_TICKS) } else { (0, 0) };
        Affinity::of(Some(&Service { flags: SERVICE_SET | flags, call_ticks, ..Service::default() }))
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It passes as it is.
    Passes,
    /// It goes to a node through the tunnel.
    Sent(u16, Carried),
    /// It goes to the daemon; or passes, or a fragment is dropped, if that has too much already.
    Punted,
    /// It comes out of the tunnel, and passes.
    Unwrapped,
    /// It comes out of the tunnel, and goes to the daemon.
    UnwrappedPunted,
}

/// Why a packet is sent to another node.
#[derive(Clone, Copy, Debug)]
enum Why {
    Owned,
    Reassembled,
    Diverted,
    Relayed,
}

/// Where a way ends, before the daemon and the next hop are looked at.
enum Plain {
    Ends(Outcome),
    Unwrapped(Outcome),
    Answered,
    Goes(u16, Why),
}

/// A frame and how the node stands.
struct Account<'a> {
    frame: &'a [u8],
    setting: Setting,
    /// Which key of the message was claimed, and by whom.
    table: &'a [(u64, Found)],
}

impl Account<'_> {
    fn of(&self) -> (Outcome, Way) {
        let Some(ip) = net::frame(&self.frame) else { return (Outcome::NotService, Way::Passes) };
        match self.plain(&ip) {
            Plain::Ends(outcome) => self.ends(&ip, outcome),
            Plain::Unwrapped(outcome) => match outcome.punted() {
                Some(punted) if self.setting.daemon == Daemon::Lives => (punted, Way::UnwrappedPunted),
                Some(_) | None => (outcome, Way::Unwrapped),
            },
            Plain::Answered => self.answered(&ip),
            Plain::Goes(node, why) => self.goes(&ip, node, why),
        }
    }

    fn plain(&self, ip: &Ip) -> Plain {
        let frame = &self.frame;
        let Some(udp) = ip.udp(frame) else { return self.no_datagram(ip) };
        if udp.destination == geneve::PORT {
            return self.tunnelled(ip, udp.length);
        }
        if udp.destination != PORT || !ip.destination(frame).is_some_and(is_vip) {
            return Plain::Ends(Outcome::NotService);
        }
        let Some((start, end)) = payload(frame, ip) else { return Plain::Ends(Outcome::Malformed) };
        let message = full::read(&frame[start..end]);
        match fast(frame, start, end, self.setting.is_call) {
            Ok(()) => {}
            Err(why) => {
                let is_sip = !matches!(why, NoKey::NotSip | NoKey::KeepAlive);
                assert!(is_sip || message.is_err(), "passed as no SIP, but it has a key");
                let alone = is_sip && !self.setting.has_peer;
                return Plain::Ends(if alone { Outcome::LocalAlone } else { why.outcome() });
            }
        }
        let message = message.expect("the fast reader has a key, the full one not");
        let keys = Keys::of(&message, Seen::Arriving, self.setting.is_call, HASH_KEY);
        let found = look_up(keys.reply, || keys.request, |key| self.found(key));
        let successor = NodeId::new(self.setting.successor).filter(|_| self.setting.sends_new_ones());
        match decide(message.kind, found, self.setting.has_peer, successor) {
            Verdict::Local(outcome) | Verdict::Ask(outcome) => Plain::Ends(outcome),
            Verdict::ToOwner(node) => Plain::Goes(node.number(), Why::Owned),
            Verdict::Divert(node) => Plain::Goes(node.number(), Why::Diverted),
        }
    }

    fn found(&self, key: u64) -> Found {
        self.table.iter().find(|(claimed, _)| *claimed == key).map_or(Found::Nothing, |(_, found)| *found)
    }

    fn no_datagram(&self, ip: &Ip) -> Plain {
        let is_for_vip = ip.destination(&self.frame).is_some_and(is_vip);
        let is_of_interest = ip.fragment || ip.extended() || ip.protocol == IpProtocol::UDP;
        Plain::Ends(if !is_for_vip || !is_of_interest {
            Outcome::NotService
        } else if !ip.fragment && !ip.extended() {
            Outcome::Malformed
        } else if !self.setting.has_peer {
            Outcome::LocalAlone
        } else if !ip.fragment {
            Outcome::ExtensionHeader
        } else if ip.end > self.frame.len() || ip.datagram_slot(&self.frame).is_none() {
            Outcome::Malformed
        } else if [0, ME].contains(&self.setting.reassembler) {
            Outcome::Fragment
        } else {
            return Plain::Goes(self.setting.reassembler, Why::Reassembled);
        })
    }

    /// The daemon has it, or a peer's, or it passes.
    fn ends(&self, ip: &Ip, outcome: Outcome) -> (Outcome, Way) {
        let passes = (outcome, Way::Passes);
        let Some(punted) = outcome.punted() else { return passes };
        if self.setting.daemon == Daemon::Lives {
            return (punted, Way::Punted);
        }
        if outcome.hook() != Hook::Ingress || ip.extended() {
            return passes;
        }
        if !self.setting.knows_peers() {
            // Of a call that crosses the edge twice, the leg that is known has to do.
            let is_known = outcome == Outcome::UnknownBranch;
            let owner = if is_known { self.request_owner(ip) } else { None };
            return owner.map_or(passes, |node| self.goes(ip, node, Why::Owned));
        }
        if self.setting.successor == 0 || ip.datagram_slot(&self.frame).is_none() {
            return passes;
        }
        let is_fragment = punted.action() == Action::Punted(Punt::Reassembles);
        let why = if is_fragment { Why::Reassembled } else { Why::Relayed };
        self.goes(ip, self.setting.successor, why)
    }

    fn request_owner(&self, ip: &Ip) -> Option<u16> {
        let (start, end) = payload(self.frame, ip)?;
        let message = full::read(&self.frame[start..end]).ok()?;
        let keys = Keys::of(&message, Seen::Arriving, self.setting.is_call, HASH_KEY);
        match self.found(keys.request) {
            Found::Peer(node) => Some(node.number()),
            Found::Own | Found::Nothing | Found::OtherBranch => None,
        }
    }

    fn goes(&self, ip: &Ip, node: u16, why: Why) -> (Outcome, Way) {
        let not_sent = |obstacle: Outcome| {
            let outcome = match why {
                Why::Reassembled => Outcome::Fragment,
                Why::Diverted => Outcome::LocalNew,
                Why::Owned | Why::Relayed => obstacle,
            };
            match outcome.punted() {
                Some(punted) if self.setting.daemon == Daemon::Lives => (punted, Way::Punted),
                Some(_) | None => (outcome, Way::Passes),
            }
        };
        if Inner::read(&self.frame, ip).is_none() {
            return not_sent(Outcome::Malformed);
        }
        if ip.length() + TUNNEL > MTU {
            return not_sent(Outcome::TooBig);
        }
        match why {
            Why::Owned => (Outcome::Forwarded, Way::Sent(node, Carried::Data)),
            Why::Reassembled => (Outcome::ForwardedFragment, Way::Sent(node, Carried::Reassemble)),
            Why::Diverted => (Outcome::Diverted, Way::Sent(node, Carried::Data)),
            Why::Relayed => (Outcome::Relayed, Way::Sent(node, Carried::Relay)),
        }
    }

    /// A packet to the tunnel port.
    fn tunnelled(&self, ip: &Ip, length: usize) -> Plain {
        let frame = &self.frame;
        if ip.destination(frame) != Some(underlay(ME, V4)) {
            return Plain::Ends(Outcome::NotService);
        }
        let malformed = Plain::Ends(Outcome::DecapMalformed);
        let Some(got) = geneve::receive(frame, ip.payload + net::UDP) else { return malformed };
        let Some(inside) = net::ip(frame, ip.payload + geneve::TUNNEL, got.protocol) else { return malformed };
        let is_whole = inside.end == ip.payload + length && ip.end <= frame.len() && inside.end <= ip.end;
        if got.vni != VNI || !is_whole {
            return malformed;
        }
        let is_known = [PEER, DOWN].contains(&got.head.node);
        if !is_known || ip.source(frame) != Some(underlay(got.head.node, V4)) {
            return Plain::Ends(Outcome::DecapUnknownPeer);
        }
        let Some(inner) = Inner::read(frame, &inside) else { return malformed };
        let key = if got.head.key_epoch & 1 == 0 { TAG_KEY } else { [0; 2] };
        if inner.tag(key, &got.head) != got.tag {
            return Plain::Ends(Outcome::DecapBadTag);
        }
        let is_for_service = is_vip(inner.destination)
            && match inside.udp(frame) {
                Some(udp) => udp.destination == PORT,
                // Only a fragment that is marked as one needs no port, and what has its port behind other headers.
                None => match got.head.kind {
                    Carried::Reassemble => inside.fragment,
                    Carried::Data => inside.extended(),
                    Carried::Local | Carried::Relay | Carried::Ask | Carried::Probe | Carried::Answer => false,
                },
            };
        match got.head.kind {
            Carried::Ask | Carried::Probe => Plain::Answered,
            Carried::Answer => Plain::Ends(Outcome::DecapAnswer),
            _ if !is_for_service => Plain::Ends(Outcome::DecapNotService),
            Carried::Reassemble => Plain::Ends(Outcome::DecapFragment),
            Carried::Data => Plain::Unwrapped(Outcome::Decapsulated),
            Carried::Local => Plain::Unwrapped(Outcome::DecapInjected),
            Carried::Relay => Plain::Unwrapped(Outcome::DecapRelayed),
        }
    }

    /// A question goes back with its answer, if it is one.
    fn answered(&self, ip: &Ip) -> (Outcome, Way) {
        let frame = &self.frame;
        let asked = (Outcome::DecapAsked, Way::Passes);
        let got = geneve::receive(frame, ip.payload + net::UDP).unwrap();
        let inside = net::ip(frame, ip.payload + geneve::TUNNEL, got.protocol).unwrap();
        let is_fitting = inside.length() + TUNNEL <= MTU && inside.start + 40 <= frame.len();
        if inside.v6 && is_fitting {
            (Outcome::DecapAnswered, Way::Sent(got.head.node, Carried::Answer))
        } else {
            asked
        }
    }
}

fn is_vip(destination: Address) -> bool {
    [V4, V6].into_iter().any(|v6| destination == address(vip(v6)))
}

/// Where the payload of a whole datagram lies.
fn payload(frame: &[u8], ip: &Ip) -> Option<(usize, usize)> {
    let udp = ip.udp(&frame)?;
    let end = ip.payload + udp.length;
    (udp.length >= net::UDP && end <= ip.end && ip.end <= frame.len()).then_some((ip.payload + net::UDP, end))
}

/// Whether the fast reader has the keys that are wanted of what arrives.
fn fast(frame: &[u8], start: usize, end: usize, is_call: bool) -> Result<(), NoKey> {
    let (r, m) = (&frame, Marks::default());
    let hash = fast::read_in(frame, start..end, &m, HASH_KEY, is_call)?;
    if Seen::Arriving.has_reply_key(m.kind() == Some(Kind::Response)) { fast::reply_key(r, &m, hash) } else { Ok(()) }
}

/// Puts into the table, for a key, nothing or a claim of one of the kinds that a message may find; what counts of it.
fn prepare(bench: &Bench, below: &mut impl FnMut(usize) -> usize, key: u64, has_peer: bool) -> Found {
    let peer = NodeId::new(PEER).unwrap();
    let (node, epoch, found) = match below(6) {
        0 | 1 => return Found::Nothing,
        2 => (ME, EPOCH, Found::Own),
        3 => ([ME, PEER][below(2)], Epoch::new(9), Found::Nothing),
        4 => (DOWN, EPOCH, Found::Nothing),
        _ => (PEER, EPOCH, if has_peer { Found::Peer(peer) } else { Found::Nothing }),
    };
    bench.claim_in(node, key, epoch);
    found
}

/// Has a frame arrive and compares all that follows with the host's account of it. `below` picks a number below
/// another. The outcome.
pub fn check(bench: &mut Bench, below: &mut impl FnMut(usize) -> usize, bytes: &[u8], setting: Setting) -> Outcome {
    bench.clear();
    let ip = net::frame(&bytes);
    let message = ip.and_then(|ip| payload(bytes, &ip)).and_then(|(start, end)| full::read(&bytes[start..end]).ok());
    let keys = message.map(|message| Keys::of(&message, Seen::Arriving, setting.affinity().is_call(), HASH_KEY));
    let keys = keys.map_or(Vec::new(), |keys| [Some(keys.request), keys.reply].into_iter().flatten().collect());
    let table: Vec<_> = keys.into_iter().map(|key| (key, prepare(bench, below, key, setting.has_peer))).collect();
    let (expected, way) = Account { frame: bytes, setting, table: &table }.of();

    let frame = Frame::raw(bytes.to_vec());
    let (action, moved, out) = bench.arrived(&frame);
    let punts = bench.punts();
    let shown = || format!("{expected:?} {way:?}, {setting:?}: {}", bytes.escape_ascii());
    let outcome = match moved.as_slice() {
        [(name, 1)] => *Outcome::ALL.iter().find(|outcome| outcome.name() == *name).unwrap(),
        moved => panic!("{moved:?} where it should be {}", shown()),
    };
    // Beyond the daemon's share a whole packet passes; a fragment is of no use to anybody.
    let beyond = match expected.action() {
        Action::Punted(punt) => Some(punt.overflow()),
        Action::Pass | Action::Sent | Action::Dropped | Action::Slow(_) => None,
    };
    assert!(outcome == expected || Some(outcome) == beyond, "{outcome:?} where it should be {}", shown());
    let is_punted = matches!(outcome.action(), Action::Punted(_));
    assert_eq!(
        action,
        match (way, outcome.action()) {
            (Way::Sent(..), _) => TX,
            (_, Action::Punted(_) | Action::Dropped) => DROP,
            _ => PASS,
        },
        "{}",
        shown()
    );
    assert_eq!(punts.len(), usize::from(is_punted), "{}", shown());
    assert!(punts.iter().all(|(head, bytes)| head.reason == outcome.number() && *bytes == out), "{}", shown());
    match way {
        // The answer that had no room on the way back.
        Way::Passes if outcome == Outcome::DecapAsked => {}
        Way::Passes | Way::Punted => assert!(out == bytes, "it has changed: {}", shown()),
        Way::Sent(node, Carried::Answer) => {
            let asked = Frame::raw(bytes[..ip.unwrap().end].to_vec());
            bench.check_answer(&out, &asked, node);
        }
        Way::Sent(node, kind) => bench.check_tunnel_with(&out, &located(bytes, &ip.unwrap()), node, kind),
        Way::Unwrapped | Way::UnwrappedPunted => unwrapped(bytes, &ip.unwrap(), &out),
    }
    outcome
}

fn located(bytes: &[u8], ip: &Ip) -> Frame {
    Frame::raw(bytes[..ip.end].to_vec()).starting_at(ip.start)
}

/// What came out of the tunnel is what was in it, behind the Ethernet header that it came with.
fn unwrapped(bytes: &[u8], ip: &Ip, out: &[u8]) {
    let start = ip.payload + geneve::TUNNEL;
    let protocol = if bytes[start] >> 4 == 6 { EtherType::IPV6 } else { EtherType::IPV4 };
    let header = [&bytes[..ip.start - 2], &protocol.0.to_be_bytes()].concat();
    assert!(*out == [&header, &bytes[start..]].concat(), "{} came out of {}", out.escape_ascii(), bytes.escape_ascii());
}
