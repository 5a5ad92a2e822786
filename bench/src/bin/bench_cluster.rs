//! Measures the daemon's side: `cargo xtask bench --cluster`.
//!
//! Two daemons' cores on real links over the loopback, each with its own runtime on its own CPU and a real claim table;
//! and what one core does alone. In a network namespace of its own, where packets can be lost on purpose.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark reads nobody's input")]

#[path = "bench_cluster/alone.rs"]
mod alone;
#[path = "../cpu.rs"]
mod cpu;
#[path = "bench_cluster/many.rs"]
mod many;
#[path = "bench_cluster/peer.rs"]
mod peer;
#[path = "bench_cluster/way.rs"]
mod way;

use std::{
    net::UdpSocket,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use peer::{Between, Load, Peer};

#[derive(Parser)]
#[command(about = "Measures two daemons' cores and links, and one core alone")]
struct Cli {
    /// Seconds of each load
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Claims a second
    #[arg(long, default_values_t = [1_000_u64, 20_000, 100_000])]
    rate: Vec<u64>,
    /// Leave out what one core does alone
    #[arg(long)]
    no_alone: bool,
    /// Milliseconds from one daemon to the other and back
    #[arg(long, default_value_t = 0)]
    rtt_ms: u64,
    /// Milliseconds of every three seconds in which nothing gets from one to the other, as to a peer that is stopped
    /// and goes on
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..3000))]
    stop_ms: u64,
    /// Measure one daemon with so many linked peers instead
    #[arg(long, value_name = "PEERS", value_parser = clap::value_parser!(u16).range(1..=1000))]
    links: Option<u16>,
    /// Play those peers, with the certificates in this folder: what the measurement starts
    #[arg(long, hide = true, requires = "links")]
    peers: Option<PathBuf>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if let (Some(links), Some(folder)) = (cli.links, &cli.peers) {
        return many::play(folder, links);
    }
    own_namespace()?;
    if let Some(links) = cli.links {
        return many::measure(links, &cli.rate, cli.seconds);
    }
    if !cli.no_alone {
        alone::run()?;
    }
    let between = Between { rtt: Duration::from_millis(cli.rtt_ms), stop: Duration::from_millis(cli.stop_ms) };
    println!("\nclaim to the peer's map, two daemons, {} ms there and back, microseconds", cli.rtt_ms);
    if cli.stop_ms > 0 {
        println!("for {} ms of every 3 s nothing gets through", cli.stop_ms);
    }
    println!(
        "{:<28} {:>9} {:>8} {:>8} {:>8} {:>9} {:>12} {:>12} {:>10} {:>8} {:>8} {:>11} {:>7} {:>7}",
        "",
        "delivered",
        "p50",
        "p99",
        "p99.9",
        "most",
        "CPU sender",
        "CPU peer",
        "longest",
        "messages",
        "packets",
        "wire bytes",
        "dropped",
        "queued"
    );
    for loss in [false, true] {
        if loss {
            lose_a_tenth()?;
        }
        ping_pong(if loss { "UDP ping-pong, 10 % loss" } else { "UDP ping-pong, one way" })?;
        for rate in &cli.rate {
            load(*rate, cli.seconds, loss, between)?;
        }
    }
    late_joiner(Between { stop: Duration::ZERO, ..between })
}

/// Nothing of this is to reach the host's network.
fn own_namespace() -> Result<()> {
    // SAFETY: no memory is handed over.
    ensure!(unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0, "make a network namespace; hint: run as root");
    command("ip", &["link", "set", "lo", "up"])
}

fn lose_a_tenth() -> Result<()> {
    command("nft", &["add", "table", "ip", "loss"])?;
    command("nft", &["add", "chain", "ip", "loss", "in", "{ type filter hook input priority 0; }"])?;
    let ends = way::ENDS.map(|port| port.to_string()).join(", ");
    let rule = format!("udp dport != {{ {ends} }} numgen random mod 10 == 0 drop");
    command("nft", &["add", "rule", "ip", "loss", "in", &rule])
}

fn command(program: &str, args: &[&str]) -> Result<()> {
    let status = Command::new(program).args(args).status().with_context(|| format!("run {program}"))?;
    ensure!(status.success(), "run {program} {}: {status}", args.join(" "));
    Ok(())
}

fn quantiles(mut values: Vec<u64>) -> [f64; 4] {
    values.sort_unstable();
    [0.5, 0.99, 0.999, 1.0].map(|part| {
        let at = (values.len().saturating_sub(1) as f64 * part) as usize;
        values.get(at).map_or(f64::NAN, |ns| *ns as f64 / 1000.0)
    })
}

/// What the machine itself needs for a datagram from one thread to another one on another CPU: half of there and back.
fn ping_pong(name: &str) -> Result<()> {
    const ROUNDS: usize = 20_000;
    let (here, there) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    here.connect(there.local_addr()?)?;
    there.connect(here.local_addr()?)?;
    here.set_read_timeout(Some(Duration::from_millis(20)))?;
    there.set_read_timeout(Some(Duration::from_millis(500)))?;
    let echo = thread::spawn(move || -> Result<()> {
        cpu::pin(1)?;
        let mut bytes = [0; 64];
        while let Ok(length) = there.recv(&mut bytes) {
            let _ = there.send(&bytes[..length]);
        }
        Ok(())
    });
    cpu::pin(0)?;
    let (mut times, mut bytes) = (Vec::new(), [0; 64]);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        here.send(&[1; 64])?;
        if here.recv(&mut bytes).is_ok() {
            times.push(start.elapsed().as_nanos() as u64 / 2);
        }
    }
    drop(here);
    let _ = echo.join();
    let delivered = times.len();
    let [p50, p99, p999, most] = quantiles(times);
    let share = 100.0 * delivered as f64 / ROUNDS as f64;
    println!("{name:<28} {share:>8.2}% {p50:>8.0} {p99:>8.0} {p999:>8.0} {most:>9.0}");
    Ok(())
}

fn load(rate: u64, seconds: u64, loss: bool, between: Between) -> Result<()> {
    let claims = (rate * seconds) as usize;
    let sent: Arc<Vec<AtomicU64>> = Arc::new((0..claims).map(|_| AtomicU64::new(0)).collect());
    let arrived: Arc<Vec<AtomicU64>> = Arc::new((0..claims).map(|_| AtomicU64::new(0)).collect());
    let (one, two, _way) = peer::pair(0, between)?;
    let receiver = Peer::start(two, 1, Load::Receive { arrived: Arc::clone(&arrived) });
    let sender = Peer::start(one, 0, Load::Send { rate, sent: Arc::clone(&sent), peers: 1 });
    sender.wait_done(Duration::from_secs(seconds + 30));
    let deadline = Instant::now() + Duration::from_secs(20);
    while arrived.iter().any(|at| at.load(Ordering::Relaxed) == 0) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
    let [sender, receiver] = Peer::stop([sender, receiver]);
    let times: Vec<_> = sent
        .iter()
        .zip(arrived.iter())
        .map(|(sent, arrived)| (sent.load(Ordering::Relaxed), arrived.load(Ordering::Relaxed)))
        .filter(|(sent, arrived)| *sent != 0 && *arrived != 0)
        .map(|(sent, arrived)| arrived.saturating_sub(sent))
        .collect();
    let share = 100.0 * times.len() as f64 / claims as f64;
    let [p50, p99, p999, most] = quantiles(times);
    let name = format!("{rate} claims/s{}", if loss { ", 10 % loss" } else { "" });
    let cpu = |ns: u64| format!("{:.2} us", ns as f64 / claims as f64 / 1000.0);
    let per_claim = |sum: u64| sum as f64 / claims as f64;
    println!(
        "{name:<28} {share:>8.3}% {p50:>8.0} {p99:>8.0} {p999:>8.0} {most:>9.0} {:>12} {:>12} \
         {:>7.1} ms {:>8.3} {:>8.3} {:>11.1} {:>7} {:>7}",
        cpu(sender.cpu_ns),
        cpu(receiver.cpu_ns),
        sender.longest_ns.max(receiver.longest_ns) as f64 / 1e6,
        per_claim(sender.batches),
        per_claim(sender.sent.packets + receiver.sent.packets),
        per_claim(sender.sent.bytes + receiver.sent.bytes),
        sender.dropped + receiver.dropped,
        sender.queued
    );
    Ok(())
}

/// A daemon with a million claims, and another one that comes late.
fn late_joiner(between: Between) -> Result<()> {
    const CLAIMS: usize = 1_000_000;
    command("nft", &["flush", "ruleset"])?;
    let (one, two, _way) = peer::pair(CLAIMS, between)?;
    let sent: Arc<Vec<AtomicU64>> = Arc::new(Vec::new());
    let first = Peer::start(one, 0, Load::Send { rate: 0, sent, peers: 1 });
    let arrived: Arc<Vec<AtomicU64>> = Arc::new((0..CLAIMS).map(|_| AtomicU64::new(0)).collect());
    let start = Instant::now();
    let second = Peer::start(two, 1, Load::Receive { arrived: Arc::clone(&arrived) });
    let deadline = start + Duration::from_secs(60);
    while arrived.last().is_none_or(|_| arrived.iter().any(|at| at.load(Ordering::Relaxed) == 0))
        && Instant::now() < deadline
    {
        thread::sleep(Duration::from_millis(5));
    }
    let [first, second] = Peer::stop([first, second]);
    let times = arrived.iter().map(|at| at.load(Ordering::Relaxed));
    let (have, last) = (times.clone().filter(|at| *at != 0).count(), times.max().unwrap_or(0));
    println!(
        "\nlate joiner: {have} of {CLAIMS} claims in its map {:.2} s after the link stood \
         (CPU {:.2} s there, {:.2} s here; longest turn {:.0} ms)",
        last.saturating_sub(second.linked_ns) as f64 / 1e9,
        second.cpu_ns as f64 / 1e9,
        first.cpu_ns as f64 / 1e9,
        first.longest_ns.max(second.longest_ns) as f64 / 1e6
    );
    Ok(())
}
