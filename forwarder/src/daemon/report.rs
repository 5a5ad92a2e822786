//! Answers to questions over the control socket: the status, and who owns a transaction.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use forwarder_common::{
    hash,
    ids::{NodeId, Tick},
    table::Entry,
};

use super::Daemon;
use crate::{
    config::Affinity,
    control::{Owner, Request, Response},
    dataplane, status,
    status::Status,
};

/// Answers a question; an error is an answer as well.
pub(super) fn answer(daemon: &Daemon, request: Request) -> Response {
    match request {
        Request::Status => match status(daemon) {
            Ok(status) => Response::Status(Box::new(status)),
            Err(error) => Response::Error(format!("{error:#}")),
        },
        Request::Owner { call_id, cseq, branch } => Response::Owner(owner(daemon, &call_id, cseq, branch.as_deref())),
    }
}

fn status(daemon: &Daemon) -> Result<Status> {
    let config = &daemon.config;
    let now = Tick::at(dataplane::monotonic_ns());
    let (own, peers) = daemon.dataplane.claims().live(config.node, now);
    let links = daemon.links.links();
    let rtt_us = |id| links.iter().find(|link| link.node == id).map(|link| link.rtt_us);
    let joined = config.cluster.seeds.iter().all(|seed| *seed == config.cluster.listen) || daemon.peers.any_up();
    let mut outcomes = daemon.dataplane.outcomes()?;
    outcomes.extend(daemon.slow.outcomes().map(|(outcome, count)| (outcome.name(), count)));
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: config.node.number(),
        epoch: daemon.dataplane.epoch().number(),
        cluster: daemon.identity.cluster.clone(),
        state: if joined { "up" } else { "joining" }.to_owned(),
        uptime_s: daemon.started.elapsed().as_secs(),
        pid: std::process::id(),
        interfaces: daemon.interfaces.report(),
        services: config.services.iter().map(status::Service::from).collect(),
        claims: status::Claims {
            own,
            peers,
            capacity: u64::from(config.claims),
            table_entries: daemon.dataplane.claims().slots() as u64,
        },
        peers: daemon.peers.report(&config.cluster.seeds, rtt_us),
        outcomes: outcomes.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        replication: replication(daemon),
        certificate: certificate(daemon),
        warnings: daemon.interfaces.warnings().chain(daemon.peers.warnings(&config.interfaces)).collect(),
    })
}

fn replication(daemon: &Daemon) -> status::Replication {
    let (core, links) = (daemon.node.counters(), daemon.links.counters());
    let ages = daemon.node.ages();
    status::Replication {
        claims_sent: core.claims_sent,
        claims_received: core.claims_received,
        batches_sent: core.batches_sent,
        batches_received: core.batches_received,
        refused_certificates: links.refused_certificates,
        protocol_errors: core.protocol_errors,
        send_queue: daemon.node.waiting() as u64,
        asks_sent: core.asks_sent,
        asks_found: core.asks_found,
        age_us: (ages.count > 0).then_some(status::Age {
            count: ages.count,
            p50: ages.p50_us,
            p99: ages.p99_us,
            max: ages.max_us,
        }),
    }
}

fn certificate(daemon: &Daemon) -> status::Certificate {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_s = i64::try_from(unix.as_secs()).unwrap_or(i64::MAX);
    status::Certificate { expires: daemon.identity.expires(), days_left: daemon.identity.days_left(now_s) }
}

/// Looks a transaction up as the fast path would look up its reply (with a branch) or its request.
fn owner(daemon: &Daemon, call_id: &str, cseq: u32, branch: Option<&str>) -> Owner {
    let key = daemon.secrets.hash_key;
    let keys = |number| hash::keys(key, call_id.as_bytes(), number, branch.unwrap_or_default().as_bytes());
    let (mut request_key, mut reply_key) = keys(cseq);
    let has_call = daemon.config.services.iter().any(|service| matches!(service.affinity, Affinity::Call));
    // A service of affinity `call` has one key per Call-ID; both kinds may be served side by side.
    if has_call && daemon.dataplane.claim(request_key).is_none() {
        (request_key, reply_key) = keys(0);
    }
    let reply_key = branch.map(|_| reply_key);
    let by_reply = reply_key.and_then(|key| daemon.dataplane.claim(key)).map(|entry| (entry, "reply"));
    let found = by_reply.or_else(|| daemon.dataplane.claim(request_key).map(|entry| (entry, "request")));
    let hex = |key: u64| format!("{key:016x}");
    let mut answer = Owner {
        request_key: hex(request_key),
        reply_key: reply_key.map(hex),
        state: "none".to_owned(),
        ..Owner::default()
    };
    if let Some((entry, by)) = found {
        fill(daemon, &mut answer, entry, by);
    }
    answer
}

fn fill(daemon: &Daemon, answer: &mut Owner, entry: Entry, by: &str) {
    let remaining = entry.remaining(Tick::at(dataplane::monotonic_ns())) as u16;
    let mine = entry.owner() == daemon.config.node.number();
    let is_current = if mine {
        Some(entry.epoch() == daemon.dataplane.epoch())
    } else {
        NodeId::new(entry.owner()).and_then(|id| daemon.peers.is_live(id, entry.epoch()))
    };
    answer.state = match is_current {
        _ if remaining == 0 => "expired",
        Some(true) => "live",
        Some(false) if mine => "void",
        Some(false) => "down or void",
        None => "down",
    }
    .to_owned();
    answer.by = Some(by.to_owned());
    answer.expires_in_ms = Some(Tick::milliseconds(remaining));
    if answer.state == "live" {
        answer.owner = Some(entry.owner());
        answer.mine = mine;
    }
}
