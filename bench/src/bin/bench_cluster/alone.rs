//! One core alone: no link, no clock but its own.

use std::{fs, time::Instant};

use anyhow::{Context as _, Result};
use forwarder_core::node::{Command, MapWrite, Node, Output};

use crate::peer::{claim, core, id, now, table, underlay};

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
            Output::Answer { .. } | Output::AskKernel { .. } | Output::Link(_) => {}
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
    crate::pin(1);
    println!("one core alone, on one CPU");
    // Kept, so that the second one cannot take the first one's memory.
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
            if let Output::Map(MapWrite::Claim { key, owner, epoch, remaining_ms }) = output {
                table.set_claim(key, owner, epoch, remaining_ms);
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
