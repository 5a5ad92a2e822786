//! The daemon: injection by its own code, and real daemons under the load of a proxy that talks through their egress
//! program.

use std::{
    net::UdpSocket,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{Xdp, XdpMode};
use forwarder::{
    dataplane::{Dataplane, Interface, Settings},
    identity::Secrets,
};
use forwarder_common::abi::{self, ClaimEvent, EVENT_BYTES};

use crate::{
    bed::{Bed, RECEIVER, SENDER, Work, datagrams, ip, pour},
    cpu,
    feed::letters,
    frames::{Kind, Message, datagram},
    measure::Figures,
    node::{Folder, Node, wait},
    report::Value,
    yardstick::Yardstick,
};

/// Packets that are injected a round.
const INJECTIONS: usize = 4000;
/// The same of the way that takes one of the machine's 65,534 page-pool ids each, which come back after seconds.
const OLD_INJECTIONS: usize = 1000;

/// Injection: by the daemon's own code, and as live frames of an XDP test run each.
pub(crate) fn injection(yardstick: &Path, cpu: usize, rounds: usize) -> Result<Vec<Figures>> {
    let _bed = Bed::make()?;
    let secrets = Secrets { hash_key: [1, 2], tag_key: [[3, 4], [5, 6]], tag_epoch: 0 };
    let config = abi::Config { node: 1, ..abi::Config::default() };
    let mut dataplane =
        Dataplane::load(&Settings { config, secrets, services: Vec::new(), sources: Vec::new(), claims: 1024 }, None)?;
    let mut yardstick = Yardstick::load(yardstick, 8, 1)?;
    let passes: &mut Xdp = yardstick.ebpf.program_mut("empty_xdp").context("find program empty_xdp")?.try_into()?;
    passes.attach(RECEIVER, XdpMode::Driver).with_context(|| format!("attach a program to {RECEIVER}"))?;
    let interface = Interface::find(RECEIVER, false)?;
    let (work, frame) = (Work::on(cpu), datagram(false, false, 5060, &Message::plain(Kind::Invite, 550).bytes).bytes);
    let packet = [frame.get(14..).unwrap_or_default().to_vec()];
    let (mut new, mut old) = (Vec::new(), Vec::new());
    for _ in 0..INJECTIONS {
        // What finds room in the socket is not counted there.
        dataplane.inject(&interface, &packet)?;
    }
    for _ in 0..rounds {
        new.push(injected(&work, INJECTIONS, || dataplane.inject(&interface, &packet))?);
        let one = || yardstick.run_live("empty_xdp", &frame, 1, Some(interface.ifindex));
        old.push(injected(&work, OLD_INJECTIONS, one)?);
    }
    const OLD: &str = "injection as a live frame of an XDP test run, INVITE 550, to a socket";
    let figures = |name: &str, rounds: Vec<f64>| {
        let minimum = rounds.iter().copied().fold(f64::INFINITY, f64::min);
        Figures { name: name.to_owned(), base: OLD.to_owned(), rounds, minimum, limit: None }
    };
    Ok(vec![figures(OLD, old), figures("injection by the daemon's code, INVITE 550, to a socket", new)])
}

/// Nanoseconds each.
fn injected(work: &Work, count: usize, mut inject: impl FnMut() -> Result<()>) -> Result<f64> {
    let (before, start) = (datagrams()?, work.ns());
    for _ in 0..count {
        inject()?;
    }
    let (ns, arrived) = (work.ns() - start, datagrams()? - before);
    ensure!(arrived as usize * 100 >= count * 98, "of {count} injected packets {arrived} have come to the socket");
    Ok(ns as f64 / arrived as f64)
}

/// A proxy that sends as many messages as it is told, each of a call of its own.
struct Proxy<'a> {
    socket: &'a UdpSocket,
    invites: Batch,
    answers: Batch,
    calls: u32,
}

struct Batch {
    messages: Vec<Vec<u8>>,
    letters_at: usize,
}

impl Batch {
    fn new(kind: Kind, length: usize) -> Self {
        let message = Message::plain(kind, length);
        Self { letters_at: message.letters_at, messages: vec![message.bytes; 64] }
    }

    /// Sends one message of each of these calls.
    fn send(&mut self, socket: &UdpSocket, first: u32, count: u32) -> Result<()> {
        for begin in (first..first + count).step_by(self.messages.len()) {
            let calls = begin..(first + count).min(begin + self.messages.len() as u32);
            let mut batch = Vec::with_capacity(calls.len());
            for (call, message) in calls.zip(&mut self.messages) {
                for (to, from) in message.iter_mut().skip(self.letters_at).zip(letters(call).to_le_bytes()) {
                    *to = from;
                }
                batch.push(&message[..]);
            }
            pour(socket, &batch, batch.len() as u32)?;
        }
        Ok(())
    }
}

/// How long after its INVITE a call is answered, in calls.
const ANSWERED_AFTER: u32 = 2000;

impl Proxy<'_> {
    fn invite(&mut self, calls: u32) -> Result<()> {
        self.invites.send(self.socket, self.calls, calls)?;
        self.calls += calls;
        Ok(())
    }

    /// So many INVITEs a second in bursts of a millisecond, with answers or without; the fullest that the ring buffer
    /// was seen.
    fn talk(&mut self, node: &Node, a_second: u32, calls: u32, answers: bool) -> Result<u64> {
        let (start, first, mut fullest) = (Instant::now(), self.calls, 0);
        while self.calls - first < calls {
            let due = (start.elapsed().as_micros() * u128::from(a_second) / 1_000_000) as u32;
            let count = due.min(calls).saturating_sub(self.calls - first);
            if answers {
                self.answers.send(self.socket, self.calls - ANSWERED_AFTER, count)?;
            }
            self.invite(count)?;
            fullest = fullest.max(node.waiting());
            thread::sleep(Duration::from_millis(1));
        }
        wait("the daemon has taken all events", || Ok(node.waiting() == 0))?;
        Ok(fullest)
    }
}

/// Two daemons, and so many claims in the end.
pub(crate) fn scale(binary: &Path, cpus: [usize; 2], claims: u32, seconds: u32) -> Result<Vec<Value>> {
    let bed = Bed::make()?;
    for node in [1, 2] {
        ip(&format!("address add 10.9.0.{node}/32 dev lo"))?;
    }
    let folder = Folder::make(binary)?;
    // Daemons on one CPU, the proxy on the other one.
    let start = |node, interface| {
        cpu::pin(cpus[0])?;
        let started = folder.start(node, interface, claims);
        cpu::pin(cpus[1])?;
        started
    };
    let (invites, answers) = (Batch::new(Kind::Invite, 550), Batch::new(Kind::Ok, 350));
    let mut proxy = Proxy { socket: bed.socket(false), invites, answers, calls: 0 };
    let mut values = Vec::new();
    let mut add = |name: &str, value: f64, unit: &str| {
        values.push(Value { name: format!("{claims} claims: {name}"), value, unit: unit.to_owned() });
    };
    let one = start(1, SENDER)?;
    let empty = one.memory()?;
    drain(&one, &mut proxy, &mut add)?;

    let two = start(2, RECEIVER)?;
    one.wait_linked()?;
    let all = (claims / 2).saturating_sub(10_000 * seconds + proxy.calls);
    let waited = one.waited_ns()?;
    let fullest = proxy.talk(&one, 50_000, all, false)?;
    let share = 100.0 * fullest as f64 / f64::from(EVENT_BYTES);
    add("ring buffer at 100,000 claims/s, at its fullest", share, "% of its room");
    add("pause that this is", share / 100.0 * ROOM_S * 1e3, "ms");
    add("the daemon had no CPU meanwhile, all in all", (one.waited_ns()? - waited) as f64 / 1e6, "ms");

    let cpu = [one.cpu_ns()?, two.cpu_ns()?];
    let began = Instant::now();
    proxy.talk(&one, 10_000, 10_000 * seconds, true)?;
    let passed = began.elapsed().as_nanos() as f64;
    for (node, before, name) in [(&one, cpu[0], "the daemon whose they are"), (&two, cpu[1], "its peer")] {
        let share = 100.0 * (node.cpu_ns()? - before) as f64 / passed;
        add(&format!("CPU at 10,000 transactions/s, {name}"), share, "% of a core");
    }
    add("claims that the table has", one.claims_of(1) as f64, "");
    add("claims lost for want of room in the ring buffer", one.outcome("egress_lost")? as f64, "");
    add("memory of the daemon", (one.memory()? - empty) as f64 / f64::from(1 << 20), "MiB");
    add("memory of the map", one.table_bytes() as f64 / f64::from(1 << 20), "MiB");
    two.stop()?;
    late(&one, || start(2, RECEIVER), &mut add)?;
    one.stop()?;
    Ok(values)
}

/// Bytes of an event in the ring buffer, with the kernel's head of eight.
const RECORD: usize = size_of::<ClaimEvent>() + 8;
/// Seconds of 100,000 claims each that the ring buffer has room for.
const ROOM_S: f64 = EVENT_BYTES as f64 / RECORD as f64 / 100_000.0;

/// Events that wait, taken at once.
fn drain(node: &Node, proxy: &mut Proxy<'_>, add: &mut impl FnMut(&str, f64, &str)) -> Result<()> {
    const CALLS: u32 = 50_000;
    node.hold(true);
    proxy.invite(CALLS)?;
    let (events, cpu) = (node.waiting() / RECORD as u64, node.cpu_ns()?);
    node.hold(false);
    let took = wait("the daemon has taken all events", || Ok(node.waiting() == 0))?;
    // What it does with the last ones.
    thread::sleep(Duration::from_millis(100));
    let ns = (node.cpu_ns()? - cpu) as f64 / events as f64;
    ensure!(events == u64::from(2 * CALLS), "{events} events wait");
    add("ring-buffer drain, without a peer", 1e3 / ns, "M events/s of one core");
    add("time to drain 100,000 events", took.as_secs_f64() * 1e3, "ms");
    Ok(())
}

/// A node that comes when all claims are there.
fn late(one: &Node, start: impl Fn() -> Result<Node>, add: &mut impl FnMut(&str, f64, &str)) -> Result<()> {
    let (all, cpu) = (one.claims_of(1), one.cpu_ns()?);
    let two = start()?;
    let began = Instant::now();
    wait("the late node has all claims", || {
        thread::sleep(Duration::from_millis(50));
        Ok(two.claims_of(1) * 1000 >= all * 999)
    })?;
    add("snapshot, from the late daemon's start to all claims in its map", began.elapsed().as_secs_f64(), "s");
    add("snapshot, CPU of the late daemon", two.cpu_ns()? as f64 / 1e9, "s");
    add("snapshot, CPU of the other one", (one.cpu_ns()? - cpu) as f64 / 1e9, "s");
    two.stop()
}
