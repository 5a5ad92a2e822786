//! Tunnel packets: who sent it, is it ours, and out of the tunnel to the local proxy. Never sent on again;
//! a relayed packet gets the verdict of this host's daemon, and a question goes back with its answer.

use aya_ebpf::{helpers::bpf_ktime_get_coarse_ns, programs::XdpContext};
use aya_log_ebpf::warn;
use forwarder_common::{
    abi::{Address, Config, Peer},
    clock::{Clock, Time},
    geneve::{self, Head, Inner, Kind},
    ids::{NodeId, Tick},
    net::{self, Ip, Udp},
    outcome::Outcome,
    question::{self, Answer},
    tunnel::{self, Receiver, Refused, Taken},
};

use crate::{
    forward::Redirect,
    lookup, maps,
    packet::{self, Frame},
};

/// What the maps say of senders.
struct Maps(&'static Config);

impl Receiver for Maps {
    type Peer = &'static Peer;

    #[inline(always)] // a load
    fn vni(&self) -> u32 {
        self.0.vni
    }

    #[inline(always)] // inlined array look-ups
    fn peer(&self, node: u16) -> Option<(&'static Peer, Address, Clock)> {
        let peer = maps::peer(maps::node(node).hop(node & NodeId::MAX)?)?;
        Some((peer, peer.address, peer.clock))
    }

    #[inline(always)] // a choice of two
    fn tag_key(&self, key_epoch: u8) -> [u64; 2] {
        geneve::tag_key(self.0.tag_key, key_epoch)
    }

    #[inline(always)] // as what it calls
    fn now(&self) -> Time {
        Time::at(maps::now_ns())
    }
}

/// What becomes of a tunnel packet whose tag is right.
enum Unwrapped {
    /// Its way ends here, unless it is punted.
    Ended(Outcome),
    /// It goes back, with an answer.
    Back(Redirect),
}

/// Where the tunnel packet's way ends, unless it is punted; only a question goes on from here: back.
#[inline(always)] // the entry program's second half
pub(crate) fn run(ctx: &XdpContext, frame: &Frame, ip: &Ip, udp: &Udp) -> Result<Redirect, Outcome> {
    match unwrap(ctx, frame, ip, udp) {
        Ok(Unwrapped::Ended(outcome)) => Err(outcome),
        Ok(Unwrapped::Back(redirect)) => Ok(redirect),
        Err(refused) => {
            complain(refused.code());
            Err(refused.outcome())
        }
    }
}

/// Says why a tunnel packet was refused, once a second and CPU at most: a peer with another secret must not be silent.
///
/// Global, so that the verifier walks the log records apart from the packet's paths.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn complain(code: u64) -> u64 {
    let Some(refused) = Refused::decode(code) else { return 0 };
    // SAFETY: the helper takes nothing and touches nothing.
    if !maps::may_log(unsafe { bpf_ktime_get_coarse_ns() }) {
        return 0;
    }
    match refused {
        Refused::Malformed => {
            warn!((), "a packet to the tunnel port is no tunnel packet of this cluster and version: passed");
        }
        Refused::UnknownPeer => warn!((), "a tunnel packet comes from an address that is no peer's: passed"),
        Refused::BadTag => {
            warn!((), "a tunnel packet has a wrong tag: passed; hint: is cluster.secret the same everywhere?");
        }
        Refused::NotService => {
            warn!((), "a tunnel packet is for no service of this node: passed; hint: compare the services");
        }
        Refused::Failed => warn!((), "a tunnel packet could not be unpacked: passed"),
        Refused::Stale => warn!((), "a tunnel packet was sent long ago or in the future: passed; a replay?"),
    }
    1
}

#[inline(always)] // as above
fn unwrap(ctx: &XdpContext, frame: &Frame, ip: &Ip, udp: &Udp) -> Result<Unwrapped, Refused> {
    let config = maps::config().ok_or(Refused::Malformed)?;
    if ip.destination(frame) != Some(config.underlay) {
        // Somebody else's Geneve.
        return Ok(Unwrapped::Ended(Outcome::NotService));
    }
    let end = ip.payload + udp.length;
    if end > ip.end || ip.end > frame.length() {
        return Err(Refused::Malformed);
    }
    let source = ip.source(frame).ok_or(Refused::Malformed)?;
    let Taken { peer, head, inside, inner, protocol } =
        tunnel::take(frame, (ip.payload + net::UDP, end), source, &Maps(config))?;
    match head.kind {
        Kind::Ask | Kind::Probe => return Ok(answer(frame, peer, &inside, &inner, head, config)),
        Kind::Answer => return Ok(Unwrapped::Ended(Outcome::DecapAnswer)),
        Kind::Data | Kind::Reassemble | Kind::Local | Kind::Relay => {}
    }
    let port = match (inside.udp(frame), head.kind) {
        // Port 0 is nobody's: under it the map has addresses alone.
        (Some(udp), _) if udp.destination != 0 => udp.destination,
        // A fragment names no port, and an extension header hides it: its address alone must be a service's.
        (None, Kind::Reassemble) if inside.fragment => 0,
        (None, Kind::Data) if inside.extended() => 0,
        (None, Kind::Local) if (inside.fragment || inside.extended()) && head.node == config.node => 0,
        (
            Some(_) | None,
            Kind::Data | Kind::Reassemble | Kind::Local | Kind::Relay | Kind::Ask | Kind::Probe | Kind::Answer,
        ) => return Err(Refused::NotService),
    };
    lookup::service(inner.destination, port).ok_or(Refused::NotService)?;
    let outcome = match head.kind {
        Kind::Data => Outcome::Decapsulated,
        Kind::Reassemble => return Ok(Unwrapped::Ended(Outcome::DecapFragment)),
        Kind::Local => Outcome::DecapInjected,
        // From here on as if it had arrived here in the first place.
        Kind::Relay => Outcome::DecapRelayed,
        Kind::Ask | Kind::Probe | Kind::Answer => return Err(Refused::NotService),
    };
    packet::decapsulate(ctx, ip.start, inside.start, protocol).map_err(|()| Refused::Failed)?;
    Ok(Unwrapped::Ended(outcome))
}

/// Writes the answer to a peer's question into it.
#[inline(always)] // once
fn answer(frame: &Frame, peer: &Peer, inside: &Ip, inner: &Inner, head: Head, config: &Config) -> Unwrapped {
    let asked = Unwrapped::Ended(Outcome::DecapAsked);
    let Some(node) = NodeId::new(head.node) else { return asked };
    if peer.ifindex == 0 || !inner.v6 {
        return asked;
    }
    let now_ns = maps::now_ns();
    let now = Tick::at(now_ns);
    let (request_key, reply_key) = question::keys(inner.source);
    let held = match head.kind {
        Kind::Ask => question::held(request_key, reply_key, |key, kind| lookup::held(config, key, kind, now)),
        Kind::Data | Kind::Reassemble | Kind::Local | Kind::Relay | Kind::Probe | Kind::Answer => None,
    };
    let answer = Answer { held, epochs: config.epochs(), has_daemon: maps::lease().has_daemon(now_ns) };
    if packet::store(frame, inside.start + question::DESTINATION, answer.address()).is_none() {
        return asked;
    }
    Unwrapped::Back(Redirect::answer(node))
}
