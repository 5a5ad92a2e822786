//! End to end on a veth pair: packets from a sender through the driver and a native program, into the stack or back.
//!
//! One CPU does all of it, one batch of 64 frames after the other: sender, driver, program, and what comes after it. So
//! nothing waits, nothing is lost, and the CPU time of that one thread is what a packet costs.

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType, Xdp, XdpMode};

use crate::{
    bed::{Bed, RECEIVER, SENDER, Work, datagrams, pour, received},
    feed::{Feed, RANDOM, RAW},
    frames::{Kind, Message, datagram},
    kernel::{Forwarder, Loading},
    measure::{Figures, Objects},
    rows::{self, CALLS, FLOWS, Feeding, HOT, varying},
    yardstick::Yardstick,
};

/// Packets a round and row.
const PACKETS: u32 = 40_000;
/// Packets before that, which are not counted.
const FIRST: u32 = 2000;

/// Whose program runs where the packets arrive, or leave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    None,
    Yardstick(&'static str),
    Forwarder,
}

/// Where packets end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// At the sender, which makes them and no more.
    Made,
    /// In the program.
    Dropped,
    /// At a socket.
    Socket,
    /// Back at the sender's interface.
    Back,
    /// They are a socket's own, and go out.
    Out,
}

struct Way {
    name: String,
    base: String,
    program: Program,
    end: End,
    frame: Vec<u8>,
    feeding: Feeding,
    outcome: Option<&'static str>,
}

/// The rows.
fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    let mut add = |group: &str, (what, base): (&str, &str), program, end, feeding: &Feeding, outcome| {
        let name = |what: &str| format!("{group}: {what}");
        let frame = feeding.texts.first().map(|(bytes, _)| bytes.clone()).unwrap_or_default();
        let (name, base, feeding) = (name(what), name(base), feeding.clone());
        ways.push(Way { name, base, program, end, frame, feeding, outcome });
    };
    const EMPTY: &str = "empty program, to a socket";
    const BACK: &str = "sent back as it is";
    let (rtp, invite) = (plain(datagram(false, false, 20_000, &[0x80; 172]).bytes), varied(0, CALLS / 2));
    for (group, feeding, outcome) in [("RTP", &rtp, "not_service"), ("INVITE 550, 1 M claims", &invite, "local_owner")]
    {
        let empty = Program::Yardstick("empty_xdp");
        add(group, ("made and dropped by the sender", EMPTY), Program::None, End::Made, feeding, None);
        add(group, ("dropped by the program", EMPTY), Program::Yardstick("drop_xdp"), End::Dropped, feeding, None);
        add(group, ("no program, to a socket", EMPTY), Program::None, End::Socket, feeding, None);
        add(group, (EMPTY, EMPTY), empty, End::Socket, feeding, None);
        add(group, ("forwarder, to a socket", EMPTY), Program::Forwarder, End::Socket, feeding, Some(outcome));
    }
    let (one_call, one_flow) = (call(HOT[1]), plain(message()));
    let mine = call(HOT[0]);
    add("INVITE 550, one claim", (EMPTY, EMPTY), Program::Yardstick("empty_xdp"), End::Socket, &mine, None);
    let local = Some("local_owner");
    add("INVITE 550, one claim", ("forwarder, to a socket", EMPTY), Program::Forwarder, End::Socket, &mine, local);
    let (calls, flows) = (varied(CALLS / 2, CALLS / 2), all_flows());
    let (back, balancer) = (Program::Yardstick("back_xdp"), Program::Yardstick("balancer"));
    for (group, feeding, flows, load) in [
        ("INVITE 550 forwarded", &one_call, &one_flow, ["one claim", "one flow"]),
        ("INVITE 550 forwarded at random", &calls, &flows, ["1 M claims", "1 M flows"]),
    ] {
        add(group, (BACK, BACK), back, End::Back, feeding, None);
        add(group, (&format!("layer-4 balancer, {}", load[1]), BACK), balancer, End::Back, flows, None);
        let name = format!("forwarder, {}", load[0]);
        add(group, (&name, BACK), Program::Forwarder, End::Back, feeding, Some("forwarded"));
    }
    ways.extend(floods());
    ways
}

/// A socket sends as fast as it can.
fn floods() -> Vec<Way> {
    const NONE: &str = "no program";
    let mut ways = Vec::new();
    let media = [0x80; 172].to_vec();
    let (invite, at) = (Message::plain(Kind::Invite, 550), HOT[0]);
    let mut claimed = invite.bytes.clone();
    for (to, from) in claimed.iter_mut().skip(invite.letters_at).zip(crate::feed::letters(at).to_le_bytes()) {
        *to = from;
    }
    for (group, payload, outcome) in [
        ("flood of RTP", media.clone(), "egress_other"),
        ("flood from the service's port, no SIP", media, "egress_other"),
        ("flood of INVITE 550, already claimed", claimed, "egress_owner"),
    ] {
        let empty = Program::Yardstick("empty_tc");
        for (what, program, outcome) in [
            (NONE, Program::None, None),
            ("empty program", empty, None),
            ("forwarder", Program::Forwarder, Some(outcome)),
        ] {
            let feeding = Feeding { feed: Feed::default(), texts: vec![(payload.clone(), 0)] };
            let (name, base) = (format!("{group}: {what}"), format!("{group}: {NONE}"));
            ways.push(Way { name, base, program, end: End::Out, frame: payload.clone(), feeding, outcome });
        }
    }
    ways
}

fn plain(frame: Vec<u8>) -> Feeding {
    let length = frame.len() as u32;
    Feeding { feed: Feed { length, restore: length, ..Feed::default() }, texts: vec![(frame, 0)] }
}

fn message() -> Vec<u8> {
    datagram(false, false, 5060, &Message::plain(Kind::Invite, 550).bytes).bytes
}

fn call(index: u32) -> Feeding {
    let message = rows::sip(false, false, &Message::plain(Kind::Invite, 550));
    plain(rows::with_letters(message, index))
}

fn varied(first: u32, count: u32) -> Feeding {
    let texts = rows::texts(Kind::Invite, 550);
    let length = texts.first().map_or(0, |(bytes, _)| bytes.len());
    varying(length, first, count, &texts)
}

fn all_flows() -> Feeding {
    let Feeding { feed, texts } = plain(message());
    Feeding { feed: Feed { patch_at: 26, patch: RAW, count: FLOWS, order: RANDOM, ..feed }, texts }
}

struct Road {
    bed: Bed,
    yardstick: Yardstick,
    forwarder: Forwarder,
    work: Work,
}

/// Measures all rows whose names hold one of the filters.
pub(crate) fn measure(
    objects: &Objects<'_>,
    cpu: usize,
    rounds: usize,
    wanted: impl Fn(&str) -> bool,
    progress: impl Fn(usize),
) -> Result<Vec<Figures>> {
    let mut road = Road::make(objects, cpu)?;
    let ways = ways();
    // What others are multiples of is measured with them.
    let bases: Vec<_> = ways.iter().filter(|way| wanted(&way.name)).map(|way| way.base.clone()).collect();
    let ways: Vec<_> = ways.into_iter().filter(|way| wanted(&way.name) || bases.contains(&way.name)).collect();
    let mut rounds_ns = vec![Vec::new(); ways.len()];
    for round in 0..rounds {
        progress(round);
        // Forward and backward in turn: no row always comes after the same other one.
        let mut order: Vec<_> = ways.iter().zip(&mut rounds_ns).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (way, ns) in order {
            ns.push(road.travel(way, round as u64).with_context(|| way.name.clone())?);
        }
    }
    let figures = ways.into_iter().zip(rounds_ns).map(|(way, rounds)| {
        let minimum = rounds.iter().copied().fold(f64::INFINITY, f64::min);
        Figures { name: way.name, base: way.base, rounds, minimum, limit: None }
    });
    Ok(figures.collect())
}

impl Road {
    fn make(objects: &Objects<'_>, cpu: usize) -> Result<Self> {
        let bed = Bed::make()?;
        let mut yardstick = Yardstick::load(objects.yardstick, 8, 2 * FLOWS)?;
        rows::add_flows(&mut yardstick)?;
        yardstick.set_send(bed.sender)?;
        let loading = Loading { claims: 2 * CALLS, v6: false, ifindex: bed.receiver };
        let mut forwarder = Forwarder::load(objects.forwarder, loading)?;
        rows::claim_all(&mut forwarder)?;
        // What comes back ends here; and the driver takes single frames only of an interface with a program.
        let end: &mut Xdp = yardstick.ebpf.program_mut("drop_xdp").context("find program drop_xdp")?.try_into()?;
        end.attach(SENDER, XdpMode::Driver).with_context(|| format!("attach a program to {SENDER}"))?;
        Ok(Self { bed, yardstick, forwarder, work: Work::on(cpu) })
    }

    /// Nanoseconds a packet.
    fn travel(&mut self, way: &Way, round: u64) -> Result<f64> {
        if way.end == End::Out {
            return self.flood(way);
        }
        let feed = Feed { state: round * 1_000_003 + 1, ..way.feeding.feed };
        self.yardstick.set_feed(feed, &way.feeding.texts)?;
        let next = self.yardstick.fd(if way.end == End::Made { "drop_xdp" } else { "send_xdp" })?;
        self.yardstick.set_next("feed_xdp", &next)?;
        let link = match way.program {
            Program::None => None,
            Program::Yardstick(name) => Some(xdp(&mut self.yardstick.ebpf, name)?.attach(RECEIVER, XdpMode::Driver)?),
            Program::Forwarder => {
                Some(xdp(&mut self.forwarder.ebpf, "forwarder_ingress")?.attach(RECEIVER, XdpMode::Driver)?)
            }
        };
        let ns = self.send(way);
        match (link, way.program) {
            (Some(link), Program::Yardstick(name)) => xdp(&mut self.yardstick.ebpf, name)?.detach(link)?,
            (Some(link), _) => xdp(&mut self.forwarder.ebpf, "forwarder_ingress")?.detach(link)?,
            (None, _) => {}
        }
        ns
    }

    fn send(&mut self, way: &Way) -> Result<f64> {
        self.yardstick.run_live("feed_xdp", &way.frame, FIRST, None)?;
        let before = self.arrived(way)?;
        let start = self.work.ns();
        self.yardstick.run_live("feed_xdp", &way.frame, PACKETS, None)?;
        let ns = self.work.ns() - start;
        let arrived = self.arrived(way)? - before;
        self.forwarder.drain();
        per_packet(ns, arrived)
    }

    /// Packets that have gone the whole way.
    fn arrived(&self, way: &Way) -> Result<u64> {
        if let Some(outcome) = way.outcome.filter(|_| way.end != End::Back) {
            // Whatever reached the socket by then has this outcome.
            return Ok(self.forwarder.outcomes()?.get(outcome).copied().unwrap_or_default());
        }
        match way.end {
            End::Socket => datagrams(),
            End::Out => received(RECEIVER),
            End::Made | End::Dropped | End::Back => self.yardstick.dropped(),
        }
    }

    fn flood(&mut self, way: &Way) -> Result<f64> {
        let link = match way.program {
            Program::None => None,
            Program::Yardstick(name) => Some(tc(&mut self.yardstick.ebpf, name)?.attach(SENDER, TcAttachType::Egress)?),
            Program::Forwarder => {
                Some(tc(&mut self.forwarder.ebpf, "forwarder_egress")?.attach(SENDER, TcAttachType::Egress)?)
            }
        };
        let ns = self.pour(way);
        match (link, way.program) {
            (Some(link), Program::Yardstick(name)) => tc(&mut self.yardstick.ebpf, name)?.detach(link)?,
            (Some(link), _) => tc(&mut self.forwarder.ebpf, "forwarder_egress")?.detach(link)?,
            (None, _) => {}
        }
        ns
    }

    fn pour(&mut self, way: &Way) -> Result<f64> {
        let socket = self.bed.socket(way.name.contains("RTP")).try_clone().context("take a socket")?;
        pour(&socket, &[&way.frame], FIRST)?;
        let before = self.arrived(way)?;
        let start = self.work.ns();
        pour(&socket, &[&way.frame], PACKETS)?;
        let ns = self.work.ns() - start;
        let arrived = self.arrived(way)? - before;
        self.forwarder.drain();
        per_packet(ns, arrived)
    }
}

/// All but what the machine itself may lose.
fn per_packet(ns: u64, arrived: u64) -> Result<f64> {
    ensure!(arrived * 100 >= u64::from(PACKETS) * 98, "of {PACKETS} packets {arrived} went the whole way");
    Ok(ns as f64 / arrived as f64)
}

fn xdp<'a>(ebpf: &'a mut aya::Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("find program {name}"))?.try_into()?)
}

fn tc<'a>(ebpf: &'a mut aya::Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(ebpf.program_mut(name).with_context(|| format!("find program {name}"))?.try_into()?)
}
