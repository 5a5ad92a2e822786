//! One daemon with hundreds of linked peers: `cargo xtask bench --links 300`.
//!
//! The daemon has this process and one CPU for itself; another process plays the peers on the other CPU, each with real
//! links. Their cores answer what the daemon asks, but claims are counted instead of merged: hundreds of maps are more
//! than one CPU can fill. The peers know only the one daemon: gossip stays away, because it would have each of them
//! call all the others.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use forwarder::{
    cluster::links::{self, Event, Settings},
    dataplane::monotonic_ns,
    identity::{init, issue},
};
use forwarder_core::{
    node::{Command as Order, Output},
    wire::{Claims, Message},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::peer::{CLAIMS, Ended, Load, Peer, Prepared, QUEUE, core, cpu_ns, id, identity, index, now, table, take};

/// The daemon that is measured; its peers have the ids that follow.
const NODE: u16 = 1;
/// A claim that takes longer, in microseconds, comes too late for a reply that is held by default.
const LATE_US: u32 = 100_000;
/// How long a peer waits for claims once all have been made.
const TIMEOUT: Duration = Duration::from_secs(10);

fn address(node: u16) -> SocketAddr {
    let [high, low] = node.to_be_bytes();
    SocketAddr::from(([127, 1, high, low], 7470))
}

/// Measures all of it and prints it.
pub(crate) fn measure(links: u16, rates: &[u64], seconds: u64) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder for certificates")?;
    init(folder.path(), "bench")?;
    (NODE..=NODE + links).try_for_each(|node| issue(folder.path(), id(node), address(node).ip()).map(drop))?;
    println!("one daemon with {links} linked peers; claims go to all of them");
    println!(
        "{:<26} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8} {:>8} {:>7} {:>9} {:>9} {:>10} {:>8} {:>8}",
        "",
        "linked",
        "MiB",
        "delivered",
        "p50 us",
        "p99 us",
        "most ms",
        "late",
        "CPU",
        "CPU peers",
        "us/packet",
        "packets/s",
        "Mbit/s",
        "dropped"
    );
    row("no claims, peers call", links, folder.path(), 0, seconds, false)?;
    row("no claims, it calls", links, folder.path(), 0, seconds, true)?;
    rates.iter().try_for_each(|rate| row(&format!("{rate} claims/s"), links, folder.path(), *rate, seconds, false))
}

/// Bytes of this process that lie in memory.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/statm").context("read /proc/self/statm")?;
    let pages: u64 = status.split_whitespace().nth(1).unwrap_or("0").parse()?;
    Ok(pages * 4096)
}

fn row(name: &str, links: u16, folder: &Path, rate: u64, seconds: u64, calls: bool) -> Result<()> {
    let mut others = Others::start(folder, links)?;
    let sent: Arc<Vec<AtomicU64>> = Arc::new((0..rate * seconds).map(|_| AtomicU64::new(0)).collect());
    let seeds = if calls { (NODE + 1..=NODE + links).map(address).collect() } else { Vec::new() };
    let settings = Settings { listen: address(NODE), seeds, identity: identity(folder, NODE)? };
    let (node, table) = (core(NODE, address(NODE)), table(NODE, CLAIMS as u32)?);
    let before = resident()?;
    if calls {
        others.ask("wait")?;
    }
    let start_ns = monotonic_ns();
    let load = Load::Send { rate, sent, peers: usize::from(links) };
    let together = Arc::new(Barrier::new(1));
    let daemon = Peer::start(Prepared { node, settings, table, gossips: false, together }, 0, load);
    if !calls {
        others.ask("call")?;
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while daemon.links() < usize::from(links) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    ensure!(daemon.links() >= usize::from(links), "link {links} peers: {} within a minute", daemon.links());
    if rate == 0 {
        thread::sleep(Duration::from_secs(seconds));
    } else {
        daemon.wait_done(Duration::from_secs(seconds + 120));
    }
    let expected = u64::from(links) * rate * seconds;
    let seen = others.ask(&format!("end {expected}"))?;
    let memory = resident()?.saturating_sub(before);
    let [ended] = Peer::stop([daemon]);
    let linked_s = ended.linked_ns.saturating_sub(start_ns) as f64 / 1e9;
    let seen: Seen = serde_json::from_str(&seen).context("read what the peers say")?;
    print(name, linked_s, memory, expected, &ended, &seen);
    Ok(())
}

fn print(name: &str, linked_s: f64, memory: u64, expected: u64, ended: &Ended, seen: &Seen) {
    let share = if expected == 0 { 100.0 } else { 100.0 * seen.arrived as f64 / expected as f64 };
    let a_second = |sum: u64| sum as f64 * 1e9 / ended.lasted_ns as f64;
    println!(
        "{name:<26} {linked_s:>6.2} s {:>8} {share:>8.3}% {:>8} {:>8} {:>8.1} {:>8} {:>6.1}% \
         {:>8.1}% {:>9.1} {:>10.0} {:>8.2} {:>8}",
        memory >> 20,
        seen.p50_us,
        seen.p99_us,
        f64::from(seen.most_us) / 1e3,
        seen.late,
        a_second(ended.cpu_ns) / 1e7,
        a_second(seen.cpu_ns) / 1e7,
        ended.cpu_ns as f64 / 1e3 / ended.sent.packets.max(1) as f64,
        a_second(ended.sent.packets),
        a_second(ended.sent.bytes) * 8.0 / 1e6,
        ended.dropped,
    );
}

/// What the peers saw together.
#[derive(Default, Serialize, Deserialize)]
struct Seen {
    arrived: u64,
    p50_us: u32,
    p99_us: u32,
    most_us: u32,
    late: u64,
    cpu_ns: u64,
}

/// The process that plays the peers.
struct Others {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Others {
    fn start(folder: &Path, links: u16) -> Result<Self> {
        let program = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(program);
        command.arg("--links").arg(links.to_string()).arg("--peers").arg(folder);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the peers")?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (orders, answers) = pipes.context("take the peers' pipes")?;
        let mut others = Self { child, orders, answers: BufReader::new(answers) };
        others.ask("")?;
        Ok(others)
    }

    fn ask(&mut self, order: &str) -> Result<String> {
        writeln!(self.orders, "{order}").context("tell the peers")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).context("hear from the peers")?;
        Ok(answer)
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The claims that have come, with their ages in microseconds.
type Ages = Mutex<Vec<u32>>;

/// Plays the peers, as told on standard input.
pub(crate) fn play(folder: &Path, links: u16) -> Result<()> {
    let identities: Vec<_> =
        (NODE + 1..=NODE + links).map(|node| Ok((node, identity(folder, node)?))).collect::<Result<_>>()?;
    let ages: Arc<Ages> = Arc::default();
    let mut lines = std::io::stdin().lines();
    let mut order = || lines.next().transpose().context("hear what to do").map(Option::unwrap_or_default);
    order()?;
    println!();
    let seeds = if order()? == "call" { vec![address(NODE)] } else { Vec::new() };
    let (listening, cpu) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let all = (Arc::clone(&ages), Arc::clone(&listening), Arc::clone(&cpu));
    thread::spawn(move || -> Result<()> {
        crate::cpu::pin(1)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ages, listening, cpu) = all;
        runtime.block_on(async {
            for (node, identity) in identities {
                let settings = Settings { listen: address(node), seeds: seeds.clone(), identity };
                tokio::spawn(one(node, settings, Arc::clone(&ages)));
                listening.fetch_add(1, Ordering::AcqRel);
            }
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                cpu.store(cpu_ns(), Ordering::Release);
            }
        })
    });
    let has = |so_many: u64| ages.lock().unwrap().len() as u64 >= so_many;
    while listening.load(Ordering::Acquire) < usize::from(links) {
        thread::sleep(Duration::from_millis(1));
    }
    println!();
    let before = cpu.load(Ordering::Acquire);
    let end = order()?;
    let expected: u64 = end.trim_start_matches("end ").parse().context("read how many claims there are")?;
    let deadline = Instant::now() + TIMEOUT;
    while !has(expected) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    let mut seen = summary(std::mem::take(&mut *ages.lock().unwrap()));
    seen.cpu_ns = cpu.load(Ordering::Acquire) - before;
    println!("{}", serde_json::to_string(&seen)?);
    Ok(())
}

fn summary(mut ages: Vec<u32>) -> Seen {
    ages.sort_unstable();
    let part = |of: usize| ages.get(ages.len() * of / 1000).copied().unwrap_or_default();
    Seen {
        arrived: ages.len() as u64,
        p50_us: part(500),
        p99_us: part(990),
        most_us: ages.last().copied().unwrap_or_default(),
        late: (ages.len() - ages.partition_point(|age| *age <= LATE_US)) as u64,
        cpu_ns: 0,
    }
}

/// One peer: the daemon's loop without a kernel, and with claims that are only counted.
async fn one(number: u16, settings: Settings, ages: Arc<Ages>) -> Result<()> {
    let mut node = core(number, settings.listen);
    let (commands, commanded) = mpsc::channel(QUEUE);
    let (events, mut happened) = mpsc::channel(QUEUE);
    let _handle = links::spawn(settings, commanded, events)?;
    let mut has = Vec::new();
    loop {
        let due_us = node.poll_timeout().map_or(1_000_000, |at| at.saturating_sub(now().monotonic_us));
        tokio::select! {
            event = happened.recv() => take(&mut node, event.map(|event| counted(event, &mut has, &ages))),
            () = tokio::time::sleep(Duration::from_micros(due_us)) => {}
        }
        node.handle_timeout(now());
        while let Some(output) = node.poll_output() {
            if let Output::Link(order @ Order::Send { .. }) = output {
                commands.send(order).await?;
            }
        }
    }
}

/// Notes the claims of a message that have not come before; what is left of it has their numbers alone.
fn counted(event: Event, has: &mut Vec<bool>, ages: &Ages) -> Event {
    let Event::Message { peer, bytes } = event else { return event };
    let (claims, rest): (_, fn(Claims) -> Message) = match Message::decode(&bytes) {
        Ok(Message::Batch(claims)) => (claims, Message::Batch),
        Ok(Message::Snapshot(claims)) => (claims, Message::Snapshot),
        _ => return Event::Message { peer, bytes },
    };
    let (unix_us, mut ages) = (now().unix_us, ages.lock().unwrap());
    for claim in &claims.claims {
        let index = index(claim.key);
        has.resize(has.len().max(index + 1), false);
        if !std::mem::replace(&mut has[index], true) {
            ages.push(u32::try_from(unix_us.saturating_sub(claim.claimed_at_unix_us)).unwrap_or(u32::MAX));
        }
    }
    Event::Message { peer, bytes: rest(Claims { claims: Vec::new(), ..claims }).encode() }
}
