//! One core alone: no link, no clock but its own.

use std::{fs, net::SocketAddr, time::Instant};

use anyhow::{Context as _, Result};
use forwarder_common::ids::Epochs;
use forwarder_common::rest::{Class, KeyKind, Purpose};
use forwarder_core::{
    node::{Command, MapWrite, Node, Output, State},
    wire::{Answer, Ask, Claim, Claims, Digest, Hello, Message},
};

use crate::peer::{EPOCH, claim, core, id, now, table, underlay};

/// Bytes of this process that lie in memory.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/statm").context("read /proc/self/statm")?;
    let pages: u64 = status.split_whitespace().nth(1).unwrap_or("0").parse()?;
    Ok(pages * 4096)
}

fn messages_to(node: &mut Node, writes: &mut Vec<MapWrite>) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    node.handle_timeout(now());
    while let Some(output) = node.poll_output() {
        match output {
            Output::Link(Command::Send { message, .. }) => messages.push(message),
            Output::Map(write) => writes.push(write),
            Output::Introduced { .. } | Output::Answer { .. } | Output::AskKernel { .. } | Output::Link(_) => {}
        }
    }
    messages
}

/// Two cores that have introduced themselves to each other.
fn introduced() -> Result<(Node, Node)> {
    let address = "127.0.0.1:7470".parse()?;
    let (mut one, mut two) = (core(1, address), core(2, address));
    one.handle_link_up(id(2), vec![underlay(2)], now());
    two.handle_link_up(id(1), vec![underlay(1)], now());
    let (mut writes, mut other) = (Vec::new(), Vec::new());
    let (from_one, from_two) = (messages_to(&mut one, &mut writes), messages_to(&mut two, &mut other));
    from_one.iter().try_for_each(|message| two.handle_message(id(1), message, now()))?;
    from_two.iter().try_for_each(|message| one.handle_message(id(2), message, now()))?;
    Ok((one, two))
}

/// Prints all of it.
pub(crate) fn run() -> Result<()> {
    crate::cpu::pin(1)?;
    println!("one core alone, on one CPU");
    // Kept, so that the second one cannot take the first one's memory.
    worst_units()?;
    let _first = live_claims(1)?;
    let _second = live_claims(4)?;
    remote_claims()
}

/// Batches of a peer: read, merged, and written into the claim table.
fn remote_claims() -> Result<()> {
    const CLAIMS: usize = 1_000_000;
    let (mut one, mut two) = introduced()?;
    let table = table(2, 1 << 20)?;
    let (mut sender_ns, mut receiver_ns, mut writes) = (0, 0, Vec::new());
    let mut bytes = 0;
    for first in (0..CLAIMS).step_by(100) {
        let start = Instant::now();
        for index in first..first + 100 {
            let now = now();
            one.handle_local(claim(index, now), now);
        }
        let messages = messages_to(&mut one, &mut writes);
        sender_ns += start.elapsed().as_nanos();
        bytes += messages.iter().map(Vec::len).sum::<usize>();
        let start = Instant::now();
        messages.iter().try_for_each(|message| two.handle_message(id(1), message, now()))?;
        two.handle_timeout(now());
        while let Some(output) = two.poll_output() {
            if let Output::Map(MapWrite::Claim { key, owner, epoch, purpose, remaining_ms }) = output {
                table.set_claim(key, owner, epoch, purpose, remaining_ms);
            }
        }
        receiver_ns += start.elapsed().as_nanos();
    }
    let per = |ns: u128| ns as f64 / CLAIMS as f64;
    println!(
        "  own claims, taken and encoded:            {:>6.0} ns each, {:.2} M/s",
        per(sender_ns),
        1e3 / per(sender_ns)
    );
    println!(
        "  remote claims, read, merged and written:  {:>6.0} ns each, {:.2} M/s \
         ({} of {CLAIMS} known, {:.1} bytes a claim)",
        per(receiver_ns),
        1e3 / per(receiver_ns),
        two.claims(),
        bytes as f64 / CLAIMS as f64
    );
    Ok(())
}

/// So many millions of claims: memory, and the time to take them up.
fn live_claims(millions: usize) -> Result<Node> {
    let claims = millions * 1_000_000;
    let before = resident()?;
    let mut node = core(1, "127.0.0.1:7470".parse()?);
    let start = Instant::now();
    for index in 0..claims {
        let now = now();
        node.handle_local(claim(index, now), now);
    }
    messages_to(&mut node, &mut Vec::new());
    let (filled, memory) = (start.elapsed(), resident()? - before);
    let slots = u64::try_from(claims)?.next_power_of_two() * 2;
    println!(
        "  {millions} M live claims: core {} MiB, map {} MiB; taken up in {:.0} ms",
        memory >> 20,
        (slots * 8) >> 20,
        filled.as_secs_f64() * 1e3
    );
    Ok(node)
}

/// Claims of a full batch.
const CLAIMS_OF_A_BATCH: usize = 49;

/// A name, how much of it a message has, and the message of each round.
type Row = (&'static str, usize, Box<dyn Fn(usize) -> Message>);

/// What the worst message of each kind costs the loop: what the budgets of peers go by
/// (`forwarder-core/src/node/budget.rs`). With three hundred peers, and without the writes into the kernel's maps.
fn worst_units() -> Result<()> {
    const PEERS: u16 = 300;
    const ROUNDS: usize = 2_000;
    let mut node = core(1, "127.0.0.1:7470".parse()?);
    for peer in 2..PEERS + 2 {
        node.handle_link_up(id(peer), vec![underlay(peer)], now());
        node.handle_message(id(peer), &greeting(peer, 1).encode(), now())?;
    }
    for index in 0..100_000 {
        let now = now();
        node.handle_local(claim(index, now), now);
    }
    messages_to(&mut node, &mut Vec::new());
    println!("  the worst of what a peer may send, to a node with {PEERS} peers:");
    for (what, units, message) in worst() {
        let messages: Vec<Vec<u8>> = (0..ROUNDS).map(|round| message(round).encode()).collect();
        let start = Instant::now();
        for message in &messages {
            node.handle_message(id(2), message, now())?;
            while node.poll_output().is_some() {}
        }
        let ns = start.elapsed().as_nanos() as f64 / (ROUNDS * units) as f64;
        println!("    {what:<40} {ns:>8.0} ns");
        // Whatever it has used up.
        node.handle_link_up(id(2), vec![underlay(2)], now());
        node.handle_message(id(2), &greeting(2, 100_000).encode(), now())?;
        messages_to(&mut node, &mut Vec::new());
    }
    Ok(())
}

fn greeting(peer: u16, sequence: u32) -> Message {
    Message::Hello(Hello {
        incarnation: u64::from(peer),
        sequence,
        epochs: Epochs::EMPTY.with(EPOCH),
        state: State::Up,
        next: 0,
        your_incarnation: 0,
        your_epochs: Epochs::EMPTY,
        have: 0,
        underlay: underlay(peer),
        listen: SocketAddr::new(underlay(peer), 7470),
        services: Vec::new(),
        must_equal: Vec::new(),
        is_silent: false,
    })
}

fn own_key(index: usize) -> u64 {
    claim(index, now()).key
}

/// A batch of as many claims as a message holds, of keys by their index, made at a time.
fn batch(round: usize, key: impl Fn(usize) -> u64, claimed_at_unix_us: u64) -> Message {
    let (first, count) = (round * CLAIMS_OF_A_BATCH, CLAIMS_OF_A_BATCH);
    let claims = (first..first + count).map(|index| Claim {
        key: key(index),
        claimed_at_unix_us,
        remaining_ms: 30_000,
        epoch: EPOCH,
        purpose: Purpose::of(KeyKind::Request, Class::Short),
        number: index as u64,
    });
    Message::Batch(Claims { first: first as u64, span: count as u32, sequence: 1, claims: claims.collect() })
}

/// The worst messages of each kind.
fn worst() -> [Row; 7] {
    let asks = |round: usize| {
        (0..47).map(move |n| Ask { number: n, request_key: own_key(round * 40 + n as usize), reply_key: n })
    };
    [
        ("a hello that says nothing new", 1, Box::new(|round| greeting(2, 2 + round as u32))),
        (
            "a digest that must be answered",
            1,
            Box::new(|_| Message::Digest(Digest { settled: u64::MAX, must_answer: true })),
        ),
        ("a new claim, of 49", 49, Box::new(|round| batch(round, |index| 1 << 60 | index as u64, 1))),
        ("a claim in conflict that loses, of 49", 49, Box::new(|round| batch(round, own_key, u64::MAX))),
        ("a claim in conflict that is dated back, of 49", 49, Box::new(|round| batch(round, own_key, 1))),
        ("an ask that is answered, of 47", 47, Box::new(move |round| Message::Ask(asks(round).collect()))),
        (
            "an answer to nothing, of 17",
            17,
            Box::new(|round| {
                let answer = |n: u64| Answer { number: n, claims: Vec::new() };
                Message::Answer((0..17).map(|n| answer(round as u64 * 17 + n)).collect())
            }),
        ),
    ]
}
