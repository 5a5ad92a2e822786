//! What becomes of a frame that the host sends, by the host's account: its full reader and its rules. The loaded egress
//! program claims that, or gives the daemon a copy.

use std::collections::BTreeMap;

use forwarder::dataplane::monotonic_ns;
use forwarder_common::{
    abi::{AFFINITY_CALL, Address, ClaimEvent, EVENT_KEPT, EVENT_NEW, SERVICE_SET, Service},
    claim::{self, Decision},
    hash,
    ids::{Epoch, Epochs, Tick},
    keys::{Affinity, Keys, Seen},
    lifetime,
    marks::Marks,
    net::{self, Ip},
    outcome::Outcome,
    rest::{Class, KeyKind, Rest},
    sip::{
        Kind, Method,
        fast::{self, NoKey},
        full::{self, Message},
    },
    table::Entry,
};

use super::{
    ME, PEER,
    bench::{Bench, CALL_TICKS, EPOCH, V4, V6, address, other_source},
    frames::{Frame, HASH_KEY, vip},
};

/// A peer that is down.
const DOWN: u16 = 3;
/// The epochs of the two services; and one that is over.
const EPOCHS: [u64; 2] = [3, 4];
const STALE: Epoch = Epoch::new(9);
/// The port of all services and sources.
const PORT: u16 = 5060;
/// How far the programs' clock may be behind, in nanoseconds: it moves with the jiffies, which an emulated machine may
/// get late.
const CLOCK_LAG_NS: u64 = 1_000_000_000;

/// How the node stands.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Whether the services are of affinity `call`.
    pub is_call: bool,
    /// Whether the node drains.
    pub drains: bool,
}

/// All of them.
pub const SETTINGS: [Setting; 4] = [
    Setting { is_call: false, drains: false },
    Setting { is_call: false, drains: true },
    Setting { is_call: true, drains: false },
    Setting { is_call: true, drains: true },
];

impl Setting {
    /// A node that stands so.
    pub fn bench(self) -> Bench {
        let mut bench = Bench::new(ME, V4);
        if self.is_call {
            bench = bench.with_affinity_call();
        }
        bench = bench.with_sources();
        bench.epochs(&EPOCHS);
        bench.peer(PEER, true);
        bench.peer(DOWN, false);
        bench.drain(self.drains);
        bench
    }

    /// The live epochs of a node.
    fn live(node: u16) -> Epochs {
        match node {
            ME => EPOCHS.into_iter().map(Epoch::new).collect(),
            PEER => Epochs::EMPTY.with(EPOCH),
            _ => Epochs::EMPTY,
        }
    }
}

/// Where a message leaves from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A service's address and port.
    Service,
    /// A source of the first service.
    Source,
    /// A service's address, and another port.
    Elsewhere,
}

/// Where a message leaves from, and in which family.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    v6: bool,
    place: Place,
}

impl Sender {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self { v6: V4, place: Place::Service },
        Self { v6: V6, place: Place::Service },
        Self { v6: V4, place: Place::Source },
        Self { v6: V6, place: Place::Source },
        Self { v6: V4, place: Place::Elsewhere },
        Self { v6: V6, place: Place::Elsewhere },
    ];

    /// Of an address and port, wherever the frame was made.
    fn of(source: Option<Address>, port: u16) -> Self {
        let family =
            |of: fn(bool) -> std::net::IpAddr| [V4, V6].into_iter().find(|v6| source == Some(address(of(*v6))));
        let found = family(vip).map(|v6| (v6, Place::Service));
        let found = found.or_else(|| family(other_source).map(|v6| (v6, Place::Source)));
        let (v6, place) = found.filter(|_| port == PORT).unwrap_or((V4, Place::Elsewhere));
        Self { v6, place }
    }

    /// A plain frame with this payload.
    pub fn frame(self, payload: &[u8]) -> Frame {
        match self.place {
            Place::Service => Frame::from_vip(self.v6, payload),
            Place::Source => Frame::from_vip(self.v6, payload).with_another_source(),
            Place::Elsewhere => Frame::from_vip_port(self.v6, 5061, payload),
        }
    }

    fn seen(self) -> Seen {
        if self.place == Place::Service { Seen::Leaving } else { Seen::LeavingElsewhere }
    }

    fn affinity(self, setting: Setting) -> Affinity {
        let (flags, call_ticks) = if setting.is_call { (AFFINITY_CALL, CALL_TICKS) } else { (0, 0) };
        let service = Service { flags: SERVICE_SET | flags, call_ticks, ..Service::default() };
        Affinity::of((self.place != Place::Elsewhere).then_some(&service))
    }

    /// The epoch of its claims, and the service that they name; `None`: it makes none.
    fn claimant(self) -> Option<(u8, u8)> {
        let service = match (self.place, self.v6) {
            (Place::Service, true) => 1,
            (Place::Service, false) | (Place::Source, _) => 0,
            (Place::Elsewhere, _) => return None,
        };
        Some((EPOCHS[service] as u8, service as u8))
    }
}

/// A UDP payload in a frame.
struct Payload<'a> {
    frame: &'a [u8],
    /// Where it begins and ends by the headers, whether or not the frame is that long.
    start: usize,
    end: usize,
    port: u16,
    from: Sender,
}

impl<'a> Payload<'a> {
    /// The payload of a datagram, or of the first fragment of one.
    ///
    /// # Errors
    /// The ends that it may come to where there is none.
    fn find(frame: &'a [u8]) -> Result<Self, &'static [Outcome]> {
        const OTHER: &[Outcome] = &[Outcome::EgressOther];
        let ip = net::frame(&frame).ok_or(OTHER)?;
        let Some(at) = ip.udp(&frame).map(|_| ip.payload).or_else(|| ip.first_fragment(&frame)) else {
            // It follows a first fragment that the daemon has got, or does not.
            let later = &[Outcome::EgressOther, Outcome::EgressFragment, Outcome::EgressPunted];
            return Err(if ip.fragment { later } else { OTHER });
        };
        let udp = Ip { payload: at, ..ip }.ports(&frame).ok_or(OTHER)?;
        let whole = at + udp.length;
        if udp.length < net::UDP || (whole > ip.end && !ip.fragment) {
            return Err(OTHER);
        }
        let (start, end, from) = (at + net::UDP, whole.min(ip.end), Sender::of(ip.source(&frame), udp.source));
        Ok(Self { frame, start, end, port: udp.source, from })
    }

    fn bytes(&self) -> &'a [u8] {
        self.frame.get(self.start..self.end.min(self.frame.len())).unwrap_or_default()
    }

    /// What egress takes for SIP at all: what begins with a letter. Of what leaves from a service's port also what
    /// begins as a message may, or with white space that is not all of it.
    fn may_be_sip(&self) -> bool {
        let Some(first) = self.frame.get(self.start) else { return false };
        match first {
            b'\r' | b'\n' | b' ' | b'\t' | 0 => self.port == PORT && self.frame.len() >= self.start + fast::SHORTEST,
            first => first.is_ascii_alphabetic() || (self.port == PORT && first.is_ascii_graphic()),
        }
    }

    /// Whether the fast reader has the keys that are wanted of it.
    ///
    /// What the branch gives, where that is read; 0 where it cannot be.
    fn fast(&self, is_call: bool) -> Result<u64, NoKey> {
        let (r, m) = (&self.frame, Marks::default());
        let hash = fast::read_in(self.frame, self.start..self.end, &m, HASH_KEY, is_call)?;
        let read = fast::reply_key(r, &m, hash);
        let is_response = m.kind() == Some(Kind::Response);
        if self.from.seen().has_reply_key(is_response) { read.map(|()| m.reply_key()) } else { Ok(m.reply_key()) }
    }
}

/// What becomes of a message, by the host's account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Where the message's way ends.
    pub outcome: Outcome,
    /// What the daemon is told, with no time.
    pub told: Vec<ClaimEvent>,
    copies: Vec<Vec<u8>>,
}

impl Account {
    const fn nothing(outcome: Outcome) -> Self {
        Self { outcome, told: Vec::new(), copies: Vec::new() }
    }

    /// The host's account of a payload that leaves at `now`, where the table has these entries.
    fn of(payload: &Payload<'_>, setting: Setting, table: &Table, now: Tick) -> Self {
        let from = payload.from;
        let full = full::read(payload.bytes());
        if !payload.may_be_sip() {
            assert!(full.is_err() || from.claimant().is_none(), "a message of the proxy's is overlooked");
            return Self::nothing(Outcome::EgressOther);
        }
        match (payload.fast(from.affinity(setting).is_call()), full) {
            (Ok(_), Ok(_)) if from.claimant().is_none() => Self::nothing(Outcome::EgressNotService),
            (Ok(branch), Ok(message)) => Self::of_message(&message, branch, from, setting, table, now),
            (Ok(_), Err(why)) => panic!("the fast reader has a key, the full one not: {why:?}"),
            (Err(NoKey::NotSip | NoKey::KeepAlive), Err(_)) => Self::nothing(Outcome::EgressOther),
            (Err(NoKey::NotSip | NoKey::KeepAlive), Ok(_)) => panic!("passed as no SIP, but it has a key"),
            (Err(NoKey::Bounds | NoKey::Form | NoKey::Incomplete), _) if from.claimant().is_none() => {
                Self::nothing(Outcome::EgressOther)
            }
            (Err(NoKey::Bounds | NoKey::Form | NoKey::Incomplete), _) => {
                Self { copies: vec![payload.frame.to_vec()], ..Self::nothing(Outcome::EgressPunted) }
            }
        }
    }

    /// `branch`: what the fast reader makes of the request key and the top Via's branch.
    fn of_message(
        message: &Message<'_>,
        branch: u64,
        from: Sender,
        setting: Setting,
        table: &Table,
        now: Tick,
    ) -> Self {
        let affinity = from.affinity(setting);
        let (kind, method) = (message.kind, Method::of(message.method));
        let status = message.status.unwrap_or_default();
        let lifetimes = lifetime::of_timers(500, 180_000, 0);
        let lifetime = lifetime::of(kind, method, status, &lifetimes, affinity.call_ticks(), setting.drains);
        let keys = Keys::of(message, from.seen(), affinity.is_call(), HASH_KEY);
        let (epoch, service) = from.claimant().unwrap();
        let effective =
            |key: &u64| table.get(key).filter(|entry| claim::is_effective(**entry, now, Setting::live)).copied();
        let is_own = |key: u64| effective(&key).is_some_and(|entry| entry.owner() == ME);
        // Whose ACK it is of a call tells the reply key of its INVITE.
        if kind == Kind::Ack && affinity.is_call() && keys.reply.is_none_or(is_own) {
            return Self::nothing(Outcome::EgressNoClaim);
        }
        let mut account = Self::nothing(Outcome::EgressNoClaim);
        let whole = message.branch.filter(|branch| !branch.is_empty());
        let whole = whole.map_or(0, |branch| hash::keys(HASH_KEY, message.call_id, message.cseq, branch).1);
        assert!(branch == whole || branch == 0 || affinity.is_call(), "the readers differ on the branch");
        let reply = keys.reply.filter(|_| message.kind != Kind::Ack).map(|key| (key, KeyKind::Reply));
        let request = (keys.request, KeyKind::of_request_key(message.kind, message.status.unwrap_or_default()));
        for (key, kind) in [request].into_iter().chain(reply) {
            let found = effective(&key);
            let lifetime = claim::lifetime(found, lifetime, ME, now);
            let decision = claim::decide(found, lifetime, ME, now);
            let (outcome, epoch, flags) = match (decision, found) {
                (Decision::New, _) => (Outcome::EgressClaimed, epoch, EVENT_NEW),
                (Decision::Refresh, found) => (Outcome::EgressOwner, found.unwrap().epoch().number(), 0),
                (Decision::Tell, _) => (Outcome::EgressOwner, epoch, EVENT_KEPT),
                (Decision::Keep, _) => (Outcome::EgressOwner, 0, 0),
                (Decision::Foreign, _) => (Outcome::EgressForeign, 0, 0),
                (Decision::NoClaim, _) => (Outcome::EgressNoClaim, 0, 0),
            };
            // The request key decides, unless only the reply key did something.
            if kind != KeyKind::Reply || matches!(account.outcome, Outcome::EgressOwner | Outcome::EgressNoClaim) {
                account.outcome = outcome;
            }
            if matches!(decision, Decision::New | Decision::Refresh | Decision::Tell) {
                let (ticks, other) = (lifetime.ticks, lifetime.tied_to(kind, keys.request, branch));
                let [kind, class, sign] = [kind.code(), lifetime.class.code(), lifetime.sign.code()].map(|n| n as u8);
                let at_ns = 0;
                account.told.push(ClaimEvent { key, other, at_ns, ticks, epoch, flags, service, kind, class, sign });
            }
        }
        if message.kind == Kind::Ack {
            account.outcome = Outcome::EgressNoClaim;
        }
        account
    }

    /// The table afterwards, as far as this message goes.
    fn table(&self, mut before: Table, now: Tick) -> Table {
        let written = self.told.iter().filter(|event| event.flags != EVENT_KEPT);
        before.extend(written.map(|event| (event.key, Entry::new(event.key, ME, event.epoch, now.after(event.ticks)))));
        before
    }
}

/// The entries of the keys that a message has.
type Table = BTreeMap<u64, Entry>;

/// Puts into the table, for a key, nothing or a claim of one of the kinds that a message may find.
fn prepare(bench: &Bench, below: &mut impl FnMut(usize) -> usize, key: u64) {
    let milliseconds = [1, 30_000, 60_000, 100_000, 210_000, 230_000, 9_000_000][below(7)];
    let live = Epoch::new(EPOCHS[below(EPOCHS.len())]);
    match below(6) {
        0 | 1 => {}
        2 => bench.claim_until(ME, key, live, milliseconds),
        3 => bench.claim_until(ME, key, STALE, milliseconds),
        4 => bench.claim_until(PEER, key, [EPOCH, STALE][below(2)], milliseconds),
        _ => bench.claim_until(DOWN, key, EPOCH, milliseconds),
    }
}

/// Sends a frame and compares all that follows with the host's account of it, which this returns. `below` picks a
/// number below another.
pub fn check(bench: &mut Bench, below: &mut impl FnMut(usize) -> usize, frame: &Frame, setting: Setting) -> Account {
    bench.clear();
    let shown = || frame.bytes().escape_ascii();
    let payload = match Payload::find(frame.bytes()) {
        Ok(payload) => payload,
        Err(ends) => {
            let (outcome, told) = (sent(bench, frame), bench.events());
            assert!(ends.contains(&outcome) && told.is_empty(), "{outcome:?} {told:?} is not {ends:?} for {}", shown());
            bench.punts();
            return Account::nothing(outcome);
        }
    };
    let (from, is_call) = (payload.from, payload.from.affinity(setting).is_call());
    let keys = full::read(payload.bytes()).map(|message| Keys::of(&message, from.seen(), is_call, HASH_KEY));
    let keys: Vec<u64> = keys.into_iter().flat_map(|keys| [Some(keys.request), keys.reply]).flatten().collect();
    keys.iter().for_each(|key| prepare(bench, below, *key));
    let table = |bench: &Bench| keys.iter().filter_map(|key| Some((*key, bench.entry(*key)?))).collect::<Table>();
    let before = table(bench);

    let earliest = Tick::at(monotonic_ns().saturating_sub(CLOCK_LAG_NS));
    let outcome = sent(bench, frame);
    let latest = Tick::at(monotonic_ns());
    let told: Vec<_> = bench.events().into_iter().map(|event| ClaimEvent { at_ns: 0, ..event }).collect();
    // What a stranger sends is shown to the daemon now and then.
    let (strangers, copies): (Vec<_>, Vec<_>) =
        bench.punts().into_iter().partition(|(head, _)| head.reason == Outcome::EgressNotService.number());
    assert!(strangers.iter().all(|(_, bytes)| bytes == frame.bytes() && from.claimant().is_none()));
    let copies = copies.into_iter().map(|(_, bytes)| bytes).collect();
    let after = table(bench);

    let found = (Account { outcome, told, copies }, after);
    // A tick may have ended meanwhile.
    let expected = [earliest, latest].map(|now| {
        let account = Account::of(&payload, setting, &before, now);
        let table = account.table(before.clone(), now);
        (account, table)
    });
    let [early, late] = &expected;
    assert!(found == *early || found == *late, "{found:#?} is not {late:#?} for {}, {from:?}", shown());
    check_rests(bench, &found.0);
    found.0
}

/// The one outcome of a frame that leaves.
fn sent(bench: &mut Bench, frame: &Frame) -> Outcome {
    match bench.sent(frame).as_slice() {
        [(name, 1)] => *Outcome::ALL.iter().find(|outcome| outcome.name() == *name).unwrap(),
        moved => panic!("{moved:?} for {}", frame.bytes().escape_ascii()),
    }
}

/// Beside each new claim lies what it was made for.
fn check_rests(bench: &Bench, account: &Account) {
    let own = if account.told.is_empty() { BTreeMap::new() } else { bench.own_claims() };
    for event in account.told.iter().filter(|event| event.flags == EVENT_NEW) {
        let rest = own[&event.key].rest;
        let noted = (rest.service(), rest.kind().map(KeyKind::code), rest.class().map(Class::code));
        assert_eq!(noted, (event.service, Some(event.kind.into()), Some(event.class.into())));
        assert_ne!(rest, Rest::new(event.key));
    }
}
