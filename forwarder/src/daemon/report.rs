//! Answers to questions over the control socket: the status, who owns a transaction, and how far a drain has come. It
//! only reads.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use anyhow::{Context as _, Result};
use forwarder_common::{
    hash,
    ids::{Epoch, Tick},
    keys::Keys,
    table::Entry,
    verdict::Found,
};

use super::{
    clock::{now, unix_s},
    context::ClaimView,
    drain::{Drain, Transaction},
    hooks::{Hooks, Run},
    interfaces::Interfaces,
    next_hops::NextHopTable,
    slow::Slow,
};
use crate::{
    cluster::{Counters, links::Handle},
    config::{self, Affinity, Config},
    control::{self, Owner, Response},
    dataplane::{self, Dataplane, OwnClaim},
    identity::{self, Identity, Secrets, Watch},
    routes::NextHop,
    status::{self, Status},
};
use forwarder_core::{
    failover::{Failover, Proxy},
    node::Node,
    slowpath::View as _,
};

/// What a report is made of.
pub(super) struct Sources<'a> {
    pub(super) config: &'a Config,
    pub(super) identity: &'a Identity,
    pub(super) secrets: &'a Secrets,
    pub(super) files: &'a Watch,
    pub(super) started: Instant,
    pub(super) interfaces: &'a Interfaces,
    pub(super) dataplane: &'a Dataplane,
    pub(super) slow: &'a Slow,
    pub(super) node: &'a Node,
    pub(super) failover: &'a Failover,
    pub(super) hooks: Option<&'a Hooks>,
    pub(super) next_hop_table: &'a NextHopTable,
    pub(super) links: &'a Handle,
}

/// How far the drain has come; `changed` says that it began or ended with this question.
pub(super) fn drain_progress(sources: &Sources<'_>, drain: &mut Drain, changed: bool) -> Response {
    let now_us = now().monotonic_us;
    let takers = sources.failover.healthy() as u64;
    let Some(since_us) = sources.failover.draining_since_us() else {
        return Response::Drain(control::Drain { changed, takers, ..control::Drain::default() });
    };
    let since_us = now_us.saturating_sub(since_us);
    let own = sources.dataplane.own_claims().filter_map(|OwnClaim { key, remaining_ms, rest, .. }| {
        let service = sources.config.services.get(usize::from(rest.service()));
        let is_of_call = service.is_some_and(|service| service.affinity == Affinity::Call);
        Transaction::of(key, remaining_ms * 1000, rest, is_of_call, sources.node.is_invite_waiting(key))
    });
    let longest_us = Tick::milliseconds(sources.dataplane.lifetimes().proceeding) * 1000;
    let progress = drain.progress(own, since_us, longest_us, now_us);
    Response::Drain(control::Drain {
        draining: true,
        changed,
        since_s: since_us / 1_000_000,
        takers,
        transactions: progress.transactions,
        last_ends_in_ms: progress.left_us.div_ceil(1000),
        transactions_since: progress.since,
    })
}

/// The answer to `forwarder status`, but for the number of unexpired claims, which [`super::census`] counts.
///
/// # Errors
/// The kernel refuses to read a map.
pub(super) fn status(sources: &Sources<'_>) -> Result<Status> {
    let config = sources.config;
    let now_us = now().monotonic_us;
    let links = sources.links.links();
    let rtt_us = |id| links.iter().find(|link| link.node == id).map(|link| link.rtt_us);
    let mut reported = reported_peers(sources, rtt_us);
    for peer in &mut reported {
        let Some(link) = links.iter().find(|link| link.node == peer.node) else { continue };
        (peer.queued_messages, peer.dropped_messages) = (link.queued_messages, link.dropped_messages);
        (peer.sent_packets, peer.sent_bytes, peer.lost_packets) =
            (link.sent_packets, link.sent_bytes, link.lost_packets);
        peer.certificate_expires = Some(identity::rfc3339(link.expires_s));
    }
    let mut outcomes = sources.dataplane.outcomes()?;
    outcomes.extend(sources.slow.outcomes().map(|(outcome, count)| (outcome.name(), count)));
    let (state, state_since_us) = sources.failover.state();
    let seconds_since = |then_us: u64| now_us.saturating_sub(then_us) / 1_000_000;
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: config.node.number(),
        epoch: sources.failover.epochs().services.first().map_or(0, |epoch| epoch.number()),
        cluster: sources.identity.cluster.clone(),
        state: state.name().to_owned(),
        uptime_s: sources.started.elapsed().as_secs(),
        pid: std::process::id(),
        interfaces: sources.interfaces.report(),
        services: config.services.iter().zip(sources.failover.proxies()).map(service).collect(),
        claims: status::Claims {
            own: 0,
            peers: 0,
            capacity: u64::from(config.claims),
            table_entries: sources.dataplane.claims().slots() as u64,
            not_kept: sources.dataplane.claims().not_kept(),
            ..status::Claims::default()
        },
        peers: reported,
        outcomes: outcomes.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        replication: replication(sources),
        certificate: certificate(sources),
        warnings: warnings(sources),
        state_since_s: seconds_since(state_since_us),
        draining_s: sources.failover.draining_since_us().map(seconds_since),
        hook: sources.hooks.and_then(Hooks::last).map(hook),
        members: sources.node.members() as u64,
        counters: counters(sources)?,
    })
}

/// What core and links have counted, by name.
fn counters(sources: &Sources<'_>) -> Result<BTreeMap<String, u64>> {
    let counters = Counters { core: sources.node.counters(), links: sources.links.counters() };
    let named = serde_json::to_value(counters).context("name what was counted")?;
    serde_json::from_value(named).context("name what was counted")
}

/// The peers by id, and then the seeds that no peer was ever linked from.
fn reported_peers(sources: &Sources<'_>, rtt_us: impl Fn(u16) -> Option<u64>) -> Vec<status::Peer> {
    let now_us = now().monotonic_us;
    let known = sources.failover.peers().map(|(id, peer)| {
        let said = peer.introduction;
        let hop = said.and_then(|said| sources.next_hop_table.hop(said.underlay));
        let is_up = peer.phase.is_up();
        status::Peer {
            node: id.number(),
            address: said.map_or_else(|| "unknown".to_owned(), |said| said.underlay.to_string()),
            link: if is_up { "up" } else { "down" }.to_owned(),
            epoch: said.and_then(|said| said.epochs.iter().next()).map_or(0, Epoch::number),
            rtt_us: rtt_us(id.number()),
            since_s: now_us.saturating_sub(peer.since_us) / 1_000_000,
            next_hop: hop.and_then(|hop| hop.as_ref().ok()).map(next_hop),
            state: said.filter(|_| is_up).map_or("down", |said| said.state.name()).to_owned(),
            reason: peer.reason.clone().or_else(|| hop.and_then(|hop| Some(hop.as_ref().err()?.to_string()))),
            ..status::Peer::default()
        }
    });
    let linked: Vec<_> = sources.failover.peers().filter_map(|(_, peer)| peer.link).collect();
    let unknown = sources.config.cluster.seeds.iter().filter(|seed| !linked.contains(seed)).map(|seed| status::Peer {
        address: seed.to_string(),
        link: "down".to_owned(),
        state: "down".to_owned(),
        reason: Some("a seed that has not answered yet".to_owned()),
        ..status::Peer::default()
    });
    known.chain(unknown).collect()
}

fn next_hop(hop: &NextHop) -> status::NextHop {
    let mac: Vec<_> = hop.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    status::NextHop { interface: hop.interface.clone(), mac: mac.join(":"), mtu: hop.mtu }
}

fn service((service, proxy): (&config::Service, &Proxy)) -> status::Service {
    status::Service {
        vip: service.vip,
        port: service.port,
        affinity: service.affinity.name().to_owned(),
        proxy: proxy.health().name().to_owned(),
        reason: proxy.reason().map(ToString::to_string),
    }
}

fn hook(run: Run) -> status::Hook {
    status::Hook {
        old: run.old.name().to_owned(),
        new: run.new.name().to_owned(),
        ended_s: run.ended.elapsed().as_secs(),
        failure: run.failure,
    }
}

/// What an operator should look at.
fn warnings(sources: &Sources<'_>) -> Vec<String> {
    let services = sources.config.services.iter().zip(sources.failover.proxies());
    let proxies = services.filter_map(|(service, proxy)| {
        let address = SocketAddr::new(service.vip, service.port);
        Some(format!("the proxy at {address} is down: {}", proxy.reason()?))
    });
    let alone = (sources.failover.diverts() && sources.failover.healthy() == 0)
        .then(|| "no peer is up to take new transactions, which therefore stay here".to_owned());
    let kept = sources.failover.is_kept_up().then(|| {
        let least = sources.config.cluster.keep_up;
        format!("this node is up though proxies are silent: fewer than {least} others are up (`keep_up`)")
    });
    let hook = sources.hooks.and_then(Hooks::last).and_then(|run| Some((run.old, run.new, run.failure?)));
    let hook = hook.map(|(old, new, why)| format!("the hook for {} to {}: {why}", old.name(), new.name()));
    let now_s = unix_s();
    let certificates = sources.identity.warnings(now_s).into_iter();
    let of_peers = sources.links.links().into_iter().filter_map(move |link| {
        let what = format!("the certificate of node {}", link.node);
        identity::ending(&what, "put a new one in its place there", link.expires_s, now_s)
    });
    let files = sources.files.complaints().map(str::to_owned);
    let interfaces = &sources.config.interfaces;
    let strangers = sources.slow.warnings(now().monotonic_us);
    let rest = sources.interfaces.warnings().chain(sources.next_hop_table.warnings(interfaces)).chain(strangers);
    proxies.chain(alone).chain(kept).chain(hook).chain(files).chain(certificates).chain(of_peers).chain(rest).collect()
}

fn replication(sources: &Sources<'_>) -> status::Replication {
    let (core, links) = (sources.node.counters(), sources.links.counters());
    let ages = sources.node.ages();
    status::Replication {
        claims_sent: core.claims_sent,
        claims_received: core.claims_received,
        batches_sent: core.batches_sent,
        batches_received: core.batches_received,
        refused_certificates: links.refused_certificates,
        protocol_errors: core.protocol_errors,
        send_queue: sources.node.waiting() as u64,
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

fn certificate(sources: &Sources<'_>) -> status::Certificate {
    let (identity, now_s) = (sources.identity, unix_s());
    status::Certificate {
        expires: identity.expires(),
        days_left: identity.days_left(now_s),
        authorities_expire: identity::rfc3339(identity.roots_expire_s),
    }
}

/// Looks a transaction up as the fast path would look up its reply (with a branch) or its request.
pub(super) fn owner(sources: &Sources<'_>, call_id: &str, cseq: u32, branch: Option<&str>) -> Owner {
    let has_call = sources.config.services.iter().any(|service| matches!(service.affinity, Affinity::Call));
    let branch_bytes = branch.unwrap_or_default().as_bytes();
    let keys = |number| {
        let (request, reply) = hash::keys(sources.secrets.hash_key, call_id.as_bytes(), number, branch_bytes);
        Keys { request, reply: branch.map(|_| reply) }
    };
    // A service of affinity `call` has one key per Call-ID; both kinds may be served side by side.
    let view = ClaimView { node: sources.config.node, dataplane: sources.dataplane, failover: sources.failover };
    let of_call = has_call.then(|| keys(0));
    let (keys, found) = pick(keys(cseq), of_call, |key| sources.dataplane.claim(key), |key| view.owner(key));
    let hex = |key: u64| format!("{key:016x}");
    let mut answer = Owner {
        request_key: hex(keys.request),
        reply_key: keys.reply.map(hex),
        state: "none".to_owned(),
        ..Owner::default()
    };
    if let Some((entry, by)) = found {
        fill(&view, &mut answer, entry, by);
    }
    answer
}

/// The claim that the programs would find under the keys of a transaction, or of a call where services have that
/// affinity: by its reply key, then by its request key. Where no claim counts, the first that is left in the table.
/// With the keys that it was found by.
fn pick(
    keys: Keys,
    of_call: Option<Keys>,
    entry: impl Fn(u64) -> Option<Entry>,
    owner: impl Fn(u64) -> Found,
) -> (Keys, Option<(Entry, &'static str)>) {
    let all = [Some(keys), of_call].into_iter().flatten().flat_map(|keys| {
        let places = [keys.reply.map(|key| (key, "reply")), Some((keys.request, "request"))];
        places.into_iter().flatten().map(move |(key, by)| (keys, key, by))
    });
    let present: Vec<_> = all.filter_map(|(keys, key, by)| Some((keys, key, entry(key)?, by))).collect();
    let found = present.iter().find(|(_, key, ..)| owner(*key) != Found::Nothing).or_else(|| present.first());
    found.map_or((keys, None), |(keys, _, entry, by)| (*keys, Some((*entry, *by))))
}

fn fill(view: &ClaimView<'_>, answer: &mut Owner, entry: Entry, by: &str) {
    let remaining = entry.remaining(Tick::at(dataplane::monotonic_ns())) as u16;
    let mine = entry.owner() == view.node.number();
    let is_current = view.live_epochs(entry.owner()).map(|live| live.contains(entry.epoch()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_programs_find_is_shown_before_what_is_only_left() {
        const KEYS: Keys = Keys { request: 1 << 40, reply: Some(2 << 40) };
        const CALL: Keys = Keys { request: 3 << 40, reply: Some(4 << 40) };
        let entry = |key: u64| Entry::new(key, 7, 0, Tick::new(1));
        let order = [
            (KEYS.reply, "reply"),
            (Some(KEYS.request), "request"),
            (CALL.reply, "reply"),
            (Some(CALL.request), "request"),
        ];
        for present in 0..16_u32 {
            for counts in (0..16_u32).filter(|counts| counts & !present == 0) {
                let is_in = |set: u32, key: u64| {
                    order.iter().position(|(at, _)| *at == Some(key)).is_some_and(|at| set >> at & 1 != 0)
                };
                let (keys, found) = pick(
                    KEYS,
                    Some(CALL),
                    |key| is_in(present, key).then(|| entry(key)),
                    |key| if is_in(counts, key) { Found::Own } else { Found::Nothing },
                );
                let best = if counts == 0 { present } else { counts };
                let expected = order.get(best.trailing_zeros() as usize).filter(|_| best != 0);
                let expected_keys = if best != 0 && best.trailing_zeros() >= 2 { CALL } else { KEYS };
                assert_eq!(keys, expected_keys, "{present:04b} {counts:04b}");
                assert_eq!(found, expected.map(|(key, by)| (entry(key.unwrap()), *by)), "{present:04b} {counts:04b}");
            }
        }
    }
}
