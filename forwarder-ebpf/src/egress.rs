//! Egress: what the local proxy says is what this node owns. Every packet goes on untouched.
//!
//! The proxy is whoever sends from a service's address and port, or from one of its sources. What others send, from
//! whatever process or network behind this host, claims nothing.

use aya_ebpf::{helpers::bpf_ktime_get_ns, programs::TcContext};
use forwarder_common::{
    abi::{Address, ClaimEvent, Config, EVENT_KEPT, EVENT_NEW, SERVICE_SET, Service, ServiceKey},
    claim::{self, Decision},
    coded,
    ids::Tick,
    keys::{Affinity, Seen},
    lifetime::{self, Lifetime},
    marks::Marks,
    net::{self, Ip, Udp},
    outcome::Outcome,
    reader::Reader as _,
    rest::{Class, KeyKind, Rest},
    sip::{
        Kind,
        fast::{NoKey, SHORTEST},
    },
    table::{self, Buckets as _, Entry, Place, SLOTS},
};

use crate::{
    key,
    maps::{self, Claims},
    packet::Frame,
    punt,
    room::egress_room,
};

/// Bytes that the parser can want: its bound, the longest headers before it and a value after it.
const PULL: u32 = 2560;
/// Where the place of a claim is in what [`egress_claim`] gives back.
const SLOT_SHIFT: u32 = 24;
const BUCKET_SHIFT: u32 = 32;
/// Tries of a compare-and-swap: another CPU or the daemon may be faster, but not for ever.
const TRIES: usize = 3;

/// Where the packet's way ends.
#[inline(always)] // the entry program itself
pub(crate) fn run(ctx: &TcContext) -> Outcome {
    match claim(ctx) {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

#[inline(always)] // as above
fn claim(ctx: &TcContext) -> Result<Outcome, Outcome> {
    let frame = Frame::tc(ctx.skb.skb);
    let ip = net::frame(&frame).ok_or(Outcome::EgressOther)?;
    let at = match ip.udp(&frame) {
        Some(_) => ip.payload,
        // The key's headers are in the first fragment or nowhere that this program can see.
        None => match ip.first_fragment(&frame) {
            Some(at) => at,
            None => return Err(later_fragment(ctx, &frame, &ip)),
        },
    };
    // What is sent in segments may have its payload apart from its headers; of others' packets none is touched for
    // that.
    let is_apart = frame.length() <= at + net::UDP;
    let is_ours =
        |frame: &Frame| Ip { payload: at, ..ip }.ports(frame).is_some_and(|udp| maps::is_service_port(udp.source));
    let frame = if is_apart && is_ours(&frame) { whole(ctx)? } else { frame };
    if !may_be_sip(&frame, at, is_ours) {
        return Err(Outcome::EgressOther);
    }
    let frame = whole(ctx)?;
    maps::config().ok_or(Outcome::EgressOther)?;
    let udp = Ip { payload: at, ..ip }.ports(&frame).ok_or(Outcome::EgressOther)?;
    // The map has addresses alone under port 0.
    let from = ip.source(&frame).and_then(|source| sender(source, udp.source)).filter(|_| udp.source != 0);
    let segment = segments(ctx, &udp);
    match (keys(ctx, Ip { payload: at, ..ip }, &udp, from), from) {
        (Err(Keyless::Other), _) | (Err(Keyless::Unread), None) => Err(Outcome::EgressOther),
        (Ok(_), None) => Err(stranger(ctx)),
        // Segments behind the first are the daemon's to claim.
        (Ok(marks), Some(from)) if segment == 0 => messages(marks, from),
        (Ok(_) | Err(Keyless::Unread), Some(_)) => {
            if ip.fragment {
                maps::set_fragmented(ip.datagram(&frame).ok_or(Outcome::EgressFragment)?);
            }
            copy(ctx, segment)
        }
    }
}

/// The service whose proxy sends from an address and port: its own ones, or a source.
#[inline(always)] // one look-up
fn sender(source: Address, port: u16) -> Option<Service> {
    maps::service(&ServiceKey { vip: source, port: port.to_be(), pad: 0 })
}

/// SIP that is nobody's proxy's. Now and then the daemon is shown some: a source may be missing in its configuration.
#[inline(always)] // rare
fn stranger(ctx: &TcContext) -> Outcome {
    // SAFETY: the helper takes nothing and touches nothing.
    if maps::may_show(unsafe { bpf_ktime_get_ns() }) {
        // One that does not fit is as good as one that is not shown.
        let _ = punt::copy_sent(ctx.skb.skb, Outcome::EgressNotService, ctx.len() as usize, 0);
    }
    Outcome::EgressNotService
}

/// Gives the daemon a copy: it claims what this program cannot read.
#[inline(always)] // two places
fn copy(ctx: &TcContext, segment: u32) -> Result<Outcome, Outcome> {
    match punt::copy_sent(ctx.skb.skb, Outcome::EgressPunted, ctx.len() as usize, segment) {
        Some(()) => Ok(Outcome::EgressPunted),
        None => Err(Outcome::EgressUnread),
    }
}

/// Bytes of payload per datagram if the packet is several (generic segmentation offload), else 0.
#[inline(always)] // two loads
fn segments(ctx: &TcContext, udp: &Udp) -> u32 {
    // SAFETY: the context is valid for the program's run.
    let size = unsafe { (*ctx.skb.skb).gso_size };
    if size != 0 && udp.length > net::UDP + size as usize { size } else { 0 }
}

/// What follows a first fragment that the daemon has got goes to it as well: the kernel sends a datagram's fragments
/// one after the other on one CPU. All others are counted: what they belong to was claimed by the first.
#[inline(always)] // rare
fn later_fragment(ctx: &TcContext, frame: &Frame, ip: &Ip) -> Outcome {
    if !ip.fragment || ip.source(frame).and_then(|source| sender(source, 0)).is_none() {
        return Outcome::EgressOther;
    }
    if ip.datagram(frame) == Some(maps::fragmented()) && copy(ctx, 0).is_ok() {
        return Outcome::EgressPunted;
    }
    Outcome::EgressFragment
}

/// SIP begins with a method or the version, mostly in letters; media, DNS and most else do not. Some put empty lines
/// before it, and proxies relay them (RFC 3261 §7.5); alone they are a keep-alive. A method may be any token, as
/// `!-%*_+`, and the full reader steps over any white space.
#[inline(always)] // one load
fn may_be_sip(frame: &Frame, udp: usize, is_ours: impl Fn(&Frame) -> bool) -> bool {
    let Some(first) = frame.byte(udp + net::UDP) else { return false };
    if first.is_ascii_alphabetic() {
        return true;
    }
    let is_white = matches!(first, b'\r' | b'\n' | b' ' | b'\t' | 0);
    let may_be = if is_white { frame.byte(udp + net::UDP + SHORTEST - 1).is_some() } else { first.is_ascii_graphic() };
    may_be && is_ours(frame)
}

/// Makes what the parser may read linear.
#[inline(always)] // rarely more than a compare
fn whole(ctx: &TcContext) -> Result<Frame, Outcome> {
    let frame = Frame::tc(ctx.skb.skb);
    if frame.length() < ctx.len() as usize {
        let wanted = if ctx.len() > PULL { PULL } else { ctx.len() };
        if ctx.pull_data(wanted).is_err() {
            return Err(Outcome::EgressUnread);
        }
        return Ok(Frame::tc(ctx.skb.skb));
    }
    Ok(frame)
}

/// Why a packet has no key here.
enum Keyless {
    /// It is no SIP.
    Other,
    /// It may be SIP, in a form that only the daemon reads.
    Unread,
}

/// Both keys of the message whose UDP header is at the IP packet's payload, into the marks.
#[inline(always)] // part of the entry program
fn keys(ctx: &TcContext, ip: Ip, udp: &Udp, from: Option<Service>) -> Result<&'static Marks, Keyless> {
    let whole = ip.payload + udp.length;
    if udp.length < net::UDP || (whole > ip.end && !ip.fragment) {
        return Err(Keyless::Other);
    }
    let end = if whole > ip.end { ip.end } else { whole };
    let marks = maps::marks_egress().ok_or(Keyless::Other)?;
    marks.begin(ip.payload + net::UDP, end);
    let affinity = Affinity::of(from.as_ref());
    let of_invite = if affinity.is_call() { 0 } else { key::BRANCH_OF_INVITE };
    match key::egress(ctx.skb.skb, key::flags(Seen::leaving(from.as_ref()), affinity) | of_invite) {
        Ok(()) => Ok(marks),
        Err(NoKey::NotSip | NoKey::KeepAlive) => Err(Keyless::Other),
        Err(NoKey::Bounds | NoKey::Form | NoKey::Incomplete) => Err(Keyless::Unread),
    }
}

/// Claims the keys of a message.
#[inline(always)] // part of the entry program
fn messages(marks: &Marks, from: Service) -> Result<Outcome, Outcome> {
    // A message with a key has a kind.
    let kind = marks.kind().ok_or(Outcome::EgressOther)?;
    let call_ticks = Affinity::of(Some(&from)).call_ticks();
    let lifetime = egress_lifetime(u64::from(call_ticks));
    let sender = u64::from(from.epoch) | u64::from(from.index) << 8;
    let is_refused = kind == Kind::Ack && call_ticks != 0 && !acknowledges_2xx(marks, &from);
    let lifetime = if is_refused { Lifetime::ANSWERED.pack() } else { lifetime };
    let outcome = claim_key(marks.request_key(), lifetime, sender, KeyKind::of_request_key(kind, marks.status()));
    if kind == Kind::Ack {
        // Whosever the transaction is: the ACK of a 2xx goes through any node.
        return Ok(Outcome::EgressNoClaim);
    }
    if Seen::leaving(Some(&from)).has_reply_key(kind == Kind::Response) && marks.reply_key() != 0 {
        return Ok(of_two(outcome, claim_key(marks.reply_key(), lifetime, sender, KeyKind::Reply)));
    }
    Ok(outcome)
}

/// The lifetime that the message gives to its claims, packed.
///
/// Global, so that what follows is not walked once for each kind of message.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_lifetime(call_ticks: u64) -> u64 {
    let (Some(config), Some(marks)) = (maps::config(), maps::marks_egress()) else { return 0 };
    let Some(kind) = marks.kind() else { return 0 };
    let drains = maps::lease().drains();
    lifetime::of(kind, marks.method(), marks.status(), &config.lifetimes, call_ticks as u16, drains).pack()
}

/// Whether an ACK of a service of affinity `call` is that of a 2xx. The ACK of another final reply has the branch of
/// its INVITE (RFC 3261 §17.1.1.3), and with it the reply key, which this node has claimed. An INVITE from a source has
/// none, so of its ACK there is no telling.
#[inline(always)] // a call
fn acknowledges_2xx(marks: &Marks, from: &Service) -> bool {
    if from.flags & SERVICE_SET == 0 || marks.reply_key() == 0 {
        return false;
    }
    // What asks without claiming or extending changes nothing.
    let known = egress_claim(marks.reply_key(), Lifetime::NOTHING.pack(), 0);
    known & 0xff != Claimed::Own.code()
}

/// For whom a key is claimed.
#[derive(Clone, Copy)]
struct Claimant {
    /// The epoch of the proxy that has sent the message.
    epoch: u8,
    /// Its service's place in the daemon's list.
    service: u8,
    /// Which key of the message it is.
    kind: KeyKind,
    /// The claim is that of a call that there is already: see [`Lifetime::of_claim`].
    is_call: bool,
}

impl Claimant {
    /// Out of one word, as [`claim_key`] packs it for a function that the verifier checks alone.
    #[inline(always)] // a few instructions
    const fn unpack(word: u64) -> Self {
        let kind = if let Some(kind) = KeyKind::decode(word >> 16 & 0xff) { kind } else { KeyKind::Request };
        Self { epoch: word as u8, service: (word >> 8) as u8, kind, is_call: word >> 24 == Class::Call.code() }
    }
}

/// The first claim decides the packet's outcome, unless only the second did something.
#[inline(always)] // two compares
const fn of_two(first: Outcome, second: Outcome) -> Outcome {
    if matches!(first, Outcome::EgressOwner | Outcome::EgressNoClaim) { second } else { first }
}

/// Claims a key, and tells the daemon what it must hear.
///
/// Two calls one after the other, for kernels before 6.12 have 512 bytes of stack for a program and all that it calls.
#[inline(always)] // two calls
fn claim_key(key: u64, lifetime: u64, sender: u64, kind: KeyKind) -> Outcome {
    let claimant = sender | kind.code() << 16;
    let mut done = egress_claim(key, lifetime, claimant);
    if done & 0xff == Claimed::Full.code() {
        if egress_room(key, lifetime, claimant >> 8 & 0xff) == 0 {
            return Outcome::EgressNoRoom;
        }
        done = egress_claim(key, lifetime, claimant);
    }
    egress_note(key, lifetime, claimant, done);
    // The function gives no other code.
    let claimed = Claimed::decode(done & 0xff).unwrap_or(Claimed::Lost);
    let flags = match claimed {
        Claimed::New => EVENT_NEW,
        Claimed::Longer => 0,
        Claimed::Kept => EVENT_KEPT,
        Claimed::Own | Claimed::NoClaim | Claimed::Foreign | Claimed::Full | Claimed::Lost => return claimed.outcome(),
    };
    let claimant = claimant & !0xff | done >> 8 & 0xff | (done >> 16 & 0xff) << 24;
    if egress_tell(key, lifetime, claimant, u64::from(flags)) == 0 { Outcome::EgressLost } else { claimed.outcome() }
}

coded! {
    /// What became of the claim of one key.
    enum Claimed {
        /// It is new.
        New = 1,
        /// This node had it already.
        Own = 2,
        /// The message makes no claim.
        NoClaim = 3,
        /// It is another live node's.
        Foreign = 4,
        /// Others were faster.
        Lost = 5,
        /// This node had it already, and it lasts longer now.
        Longer = 6,
        /// This node had it already, and the daemon is to hear of the message.
        Kept = 7,
        /// Both buckets of its key are full: one of the claims there has to give way first.
        Full = 8,
    }
}

impl Claimed {
    #[inline(always)] // a few compares
    const fn outcome(self) -> Outcome {
        match self {
            Self::New => Outcome::EgressClaimed,
            Self::Own | Self::Longer | Self::Kept => Outcome::EgressOwner,
            Self::NoClaim => Outcome::EgressNoClaim,
            Self::Foreign => Outcome::EgressForeign,
            Self::Full => Outcome::EgressNoRoom,
            Self::Lost => Outcome::EgressLost,
        }
    }

    /// With the epoch and the class's code of the claim, as [`egress_claim`] gives it back.
    #[inline(always)] // a few instructions
    const fn under(self, epoch: u8, class: u64) -> u64 {
        self.code() | (epoch as u64) << 8 | class << 16
    }
}

/// Claims one key, or refreshes this node's claim on it; the code of what became of it, from bit 8 on the claim's
/// epoch, from bit 16 on the code of its class, and from bit 24 on its place if it is this node's.
///
/// Global, so that the verifier walks the choice of a slot once, not after every path of the parse.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_claim(key: u64, lifetime: u64, claimant: u64) -> u64 {
    let (Some(config), Some(marks)) = (maps::config(), maps::marks_egress()) else {
        return Claimed::Lost.code();
    };
    one(marks, config, key, Lifetime::unpack(lifetime), Claimant::unpack(claimant))
}

#[inline(always)] // the body of the above
fn one(marks: &Marks, config: &Config, key: u64, lifetime: Lifetime, claimant: Claimant) -> u64 {
    let now = Tick::at(maps::now_ns());
    for _ in 0..TRIES {
        // The slot becomes a number that the verifier does not know: what follows is verified once, not for each of
        // sixteen.
        let known = table::find(&Claims(marks), config.bucket_mask, key)
            .map(|(place, entry)| (Place { slot: marks.hide(place.slot as usize) as u32, ..place }, entry));
        let live = |id| maps::live_epochs(id, config);
        let effective = match known {
            Some((_, entry)) if claim::is_effective(entry, now, live) => Some(entry),
            Some(_) | None => None,
        };
        let at = known.map_or(0, |(place, _)| packed(place));
        let lifetime = claim::lifetime(effective, lifetime, config.node, now);
        // As above: not once for each lifetime.
        let lifetime = Lifetime { ticks: marks.hide(usize::from(lifetime.ticks)) as u16, ..lifetime };
        let class = marks.hide(lifetime.class.code() as usize) as u64;
        let is_new = match claim::decide(effective, lifetime, config.node, now) {
            Decision::New => true,
            Decision::Refresh => false,
            Decision::Keep => return Claimed::Own.under(claimant.epoch, class) | at,
            Decision::Tell => return Claimed::Kept.under(claimant.epoch, class) | at,
            Decision::Foreign => return Claimed::Foreign.under(claimant.epoch, class),
            Decision::NoClaim => return Claimed::NoClaim.under(claimant.epoch, class),
        };
        let epoch = claim::epoch(effective, claimant.epoch);
        let chosen = known.or_else(|| table::choose(&mut Claims(marks), config.bucket_mask, key, now));
        let Some((place, old)) = chosen else { continue };
        if known.is_none() && old.remaining(now) != 0 {
            return Claimed::Full.code();
        }
        let new = Entry::new(key, config.node, epoch, now.after(lifetime.ticks));
        if Claims(marks).exchange(place, old, new) {
            if known.is_none() && table::is_twice(&Claims(marks), config.bucket_mask, key, place) {
                // The daemon has put one meanwhile. It clears away all but its own, so this one goes, and that one
                // counts.
                Claims(marks).exchange(place, new, Entry::default());
                continue;
            }
            let claimed = if is_new { Claimed::New } else { Claimed::Longer };
            return claimed.under(epoch, class) | packed(place);
        }
    }
    Claimed::Lost.code()
}

/// Notes beside a claim what it was made for, and how far its transaction has come. `lifetime` and `claimant` as in
/// [`egress_claim`], and `done` what that has said.
///
/// Global, so that the verifier walks it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_note(key: u64, lifetime: u64, claimant: u64, done: u64) -> u64 {
    let (step, claimant) = (Lifetime::unpack(lifetime).step, Claimant::unpack(claimant));
    let place = Place { slot: (done >> SLOT_SHIFT) as u32 & (SLOTS as u32 - 1), bucket: (done >> BUCKET_SHIFT) as u32 };
    match Claimed::decode(done & 0xff) {
        Some(claimed @ (Claimed::New | Claimed::Longer)) => {
            let rest = Rest::of_codes(key, claimant.service, claimant.kind.code(), done >> 16 & 0xff);
            maps::note_rest(place, key, rest, matches!(claimed, Claimed::New), step);
        }
        Some(Claimed::Own | Claimed::Kept) => maps::note_step(place, key, step),
        Some(Claimed::NoClaim | Claimed::Foreign | Claimed::Full | Claimed::Lost) | None => {}
    }
    0
}

/// A place as [`egress_claim`] gives it back.
#[inline(always)] // a few instructions
const fn packed(place: Place) -> u64 {
    (place.slot as u64) << SLOT_SHIFT | (place.bucket as u64) << BUCKET_SHIFT
}

/// Tells the daemon of a claim; 0 if there is no room for that. `lifetime` and `claimant` as in [`egress_claim`].
///
/// Global, so that the verifier walks it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_tell(key: u64, lifetime: u64, claimant: u64, flags: u64) -> u64 {
    let Some(marks) = maps::marks_egress() else { return 0 };
    let (lifetime, claimant) = (Lifetime::unpack(lifetime), Claimant::unpack(claimant));
    let lifetime = if claimant.is_call { lifetime.of_claim(u16::MAX) } else { lifetime };
    // SAFETY: the helper takes nothing and touches nothing.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    let event = ClaimEvent {
        key,
        other: lifetime.tied_to(claimant.kind, marks.request_key(), marks.reply_key()),
        at_ns,
        ticks: lifetime.ticks,
        epoch: claimant.epoch,
        flags: flags as u8,
        service: claimant.service,
        kind: claimant.kind.code() as u8,
        class: lifetime.class.code() as u8,
        sign: lifetime.sign.code() as u8,
    };
    u64::from(maps::tell(event))
}
