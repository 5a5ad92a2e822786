//! How long a claim takes: from a transaction's first packet at the router until every peer of its owner knows it.
//!
//! The first packet's time is the capture's, the claim's is the daemons' own log (`forwarder::claims=trace`); both are
//! this machine's clock. What joins them is the request key, which `forwarder explain` computes for the capture.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::capture::Capture;
use crate::forwarder::{Cluster, tool_ok};

/// The times of all transactions of a capture of Ethernet frames, in microseconds, sorted.
///
/// # Errors
/// `forwarder explain` fails, or no claim matches a packet.
pub fn times(cluster: &Cluster, capture: &Capture) -> Result<Vec<u64>> {
    let firsts = first_packets(cluster, capture)?;
    let peers = cluster.daemons.len().saturating_sub(1);
    let mut standing: HashMap<String, Vec<u64>> = HashMap::new();
    for daemon in &cluster.daemons {
        for (key, micros) in claims_of(&daemon.log()) {
            standing.entry(key).or_default().push(micros);
        }
    }
    let mut times = Vec::new();
    for (key, first) in &firsts {
        let Some(stands) = standing.get(key).filter(|stands| stands.len() == peers) else { continue };
        times.extend(stands.iter().max().map(|last| last.saturating_sub(*first)));
    }
    ensure!(!times.is_empty(), "no claim in the daemons' logs belongs to a packet of {}", capture.file().display());
    times.sort_unstable();
    Ok(times)
}

/// The request key of each transaction with the time of its first request.
fn first_packets(cluster: &Cluster, capture: &Capture) -> Result<HashMap<String, u64>> {
    let config = cluster.daemons.first().context("find a configuration")?.config().display().to_string();
    let file = capture.file().display().to_string();
    let text = tool_ok(&["explain", &file, "--json", "--config", &config])?;
    let times: HashMap<u64, u64> =
        capture.datagrams()?.iter().map(|datagram| (datagram.frame, datagram.micros)).collect();
    let mut firsts = HashMap::new();
    for line in text.lines() {
        let packet: Value = serde_json::from_str(line).context("read a line of `forwarder explain`")?;
        let frame = packet.get("frame").and_then(Value::as_u64);
        let key = packet.get("request_key").and_then(Value::as_str);
        let is_request = packet.get("kind").and_then(Value::as_str) == Some("request");
        if let (Some(key), Some(micros), true) = (key, frame.and_then(|frame| times.get(&frame)), is_request) {
            let first = firsts.entry(key.to_owned()).or_insert(*micros);
            *first = (*first).min(*micros);
        }
    }
    Ok(firsts)
}

/// What one daemon logged of its peers' claims: each key with the first time at which it stood.
fn claims_of(log: &str) -> HashMap<String, u64> {
    let mut found = HashMap::new();
    for line in log.lines() {
        if let Some((key, micros)) = claim_of(line) {
            found.entry(key).or_insert(micros);
        }
    }
    found
}

/// Reads `claim <key> of node N stands at <microseconds>`.
fn claim_of(line: &str) -> Option<(String, u64)> {
    let (_, claim) = line.split_once("claim ")?;
    let (key, rest) = claim.split_once(" of node ")?;
    let (_, micros) = rest.split_once(" stands at ")?;
    Some((key.to_owned(), micros.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_from_a_logged_line_and_the_first_counts() {
        let log = "[2026 TRACE forwarder::claims] claim 00ff of node 2 stands at 1700000000000001\n\
                   [2026 INFO forwarder] something else\n\
                   [2026 TRACE forwarder::claims] claim 00ff of node 2 stands at 1700000000000009\n";
        assert_eq!(claims_of(log), HashMap::from([("00ff".to_owned(), 1_700_000_000_000_001)]));
    }
}
