//! `status` for a terminal: what is wrong first, then the peers, then the packets; nothing that is zero.

use std::fmt::Write as _;

use forwarder_common::outcome::{Hook, Outcome};

use crate::foreign;

use super::snapshot::{Age, Claims, Interface, Peer, Replication, Service, Status};

/// From so many percent of its claims on `status` warns of the table.
pub const CLAIMS_WARNED_PERCENT: u64 = 80;
/// Column of the values.
const LABEL: usize = 14;

/// The snapshot as lines for a terminal, aligned, with a newline at the end.
#[must_use]
pub fn render(status: &Status) -> String {
    let mut out = String::new();
    for warning in &status.warnings {
        line(&mut out, "WARNING", warning);
    }
    let (node, cluster, state) = (status.node, &status.cluster, &status.state);
    line(&mut out, "node", &format!("{node} of cluster {cluster}, {state} for {}", span(status.state_since_s)));
    let (version, pid, epoch) = (&status.version, status.pid, status.epoch);
    let uptime = span(status.uptime_s);
    line(&mut out, "daemon", &format!("forwarder {version}, pid {pid}, epoch {epoch}, running for {uptime}"));
    rows(&mut out, "interfaces", status.interfaces.iter().map(interface));
    rows(&mut out, "services", status.services.iter().map(service));
    if let Some(hook) = &status.hook {
        let how = hook.failure.as_ref().map_or("done", |_| "FAILED");
        line(&mut out, "hook", &format!("{} to {}: {how}, {} ago", hook.old, hook.new, span(hook.ended_s)));
    }
    let claims = &status.claims;
    let (own, peers, capacity) = (grouped(claims.own), grouped(claims.peers), grouped(claims.capacity));
    let (filled, most) = (claims.percent(), most_of(claims));
    line(&mut out, "claims", &format!("{own} own, {peers} of peers, room for {capacity} ({filled} % full){most}"));
    let certificate = &status.certificate;
    let (expires, days) = (&certificate.expires, certificate.days_left);
    let authorities = match certificate.authorities_expire.as_str() {
        "" => String::new(),
        end => format!(", authorities until {end}"),
    };
    line(&mut out, "certificate", &format!("until {expires} ({days} days left){authorities}"));
    peer_table(&mut out, &status.peers, status.members);
    replication(&mut out, &status.replication);
    rows(&mut out, "", status.peers.iter().filter_map(congestion));
    packets(&mut out, status);
    out
}

/// Who has most of the table, where anybody has more than half of it and it is filling up.
fn most_of(claims: &Claims) -> String {
    let used = claims.own + claims.peers;
    let most = claims.by_owner.iter().max_by_key(|(_, count)| **count);
    match most.filter(|(_, count)| **count * 2 > used && claims.percent() >= CLAIMS_WARNED_PERCENT) {
        Some((node, count)) => format!(", {} of node {node}", grouped(*count)),
        None => String::new(),
    }
}

fn line(out: &mut String, label: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{}", foreign::line(&format!("{label:<LABEL$}{value}")).trim_end());
}

fn rows(out: &mut String, label: &str, values: impl Iterator<Item = String>) {
    for (index, value) in values.enumerate() {
        line(out, if index == 0 { label } else { "" }, &value);
    }
}

fn interface(interface: &Interface) -> String {
    let Interface { name, xdp, egress } = interface;
    format!("{name} (XDP {xdp}, egress {egress})")
}

fn service(service: &Service) -> String {
    let Service { vip, port, affinity, proxy, reason } = service;
    let address = std::net::SocketAddr::new(*vip, *port);
    let why = reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    match proxy.as_str() {
        // The answer of a daemon that does not say.
        "" => format!("{address}, affinity {affinity}"),
        "unprobed" => format!("{address}, affinity {affinity}, proxy not probed, counts as alive"),
        proxy => format!("{address}, affinity {affinity}, proxy {proxy}{why}"),
    }
}

fn peer_table(out: &mut String, peers: &[Peer], members: u64) {
    if peers.is_empty() {
        line(out, "peers", "none: this node stands alone");
        return;
    }
    let up = peers.iter().filter(|peer| peer.link == "up").count();
    line(out, "peers", &format!("{up} of {} up, {members} members alive", peers.len()));
    let head = ["node", "address", "state", "since", "rtt", "next hop"].map(str::to_owned);
    let rows = peers.iter().map(|peer| peer_row(peer).map(|cell| foreign::line(&cell)));
    let table = std::iter::once(head).chain(rows).collect::<Vec<_>>();
    let mut widths = [0; 6];
    for row in &table {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &table {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect::<Vec<_>>();
        let _ = writeln!(out, "  {}", cells.join("  ").trim_end());
    }
}

fn peer_row(peer: &Peer) -> [String; 6] {
    let node = if peer.node == 0 { "?".to_owned() } else { peer.node.to_string() };
    let rtt = peer.rtt_us.map_or("-".to_owned(), milliseconds);
    let hop = peer.next_hop.as_ref().map(|hop| format!("{} {} mtu {}", hop.interface, hop.mac, hop.mtu));
    let hop = [hop, peer.reason.clone()].into_iter().flatten().collect::<Vec<_>>().join(", ");
    let hop = if hop.is_empty() { "-".to_owned() } else { hop };
    // The answer of a daemon that does not say more.
    let state = if peer.state.is_empty() { &peer.link } else { &peer.state };
    [node, peer.address.clone(), state.clone(), span(peer.since_s), rtt, hop]
}

fn replication(out: &mut String, counts: &Replication) {
    let (sent, received) = (grouped(counts.claims_sent), grouped(counts.claims_received));
    let (out_batches, in_batches) = (grouped(counts.batches_sent), grouped(counts.batches_received));
    line(
        out,
        "replication",
        &format!("{sent} claims sent in {out_batches} batches, {received} received in {in_batches}"),
    );
    if let Some(Age { count, p50, p99, max }) = counts.age_us {
        let (p50, p99, max) = (milliseconds(p50), milliseconds(p99), milliseconds(max));
        line(
            out,
            "",
            &format!("claims stood here after {p50} (median), {p99} (p99), {max} (max) of {}", grouped(count)),
        );
    }
    let odd = [
        (counts.send_queue, "claims waiting to be sent"),
        (counts.asks_sent, "questions to peers about the owner of a message"),
        (counts.asks_found, "of them answered with a claim"),
        (counts.refused_certificates, "peers refused for their certificate"),
        (counts.protocol_errors, "links dropped for protocol errors"),
    ];
    rows(out, "", odd.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{what}: {}", grouped(*n))));
}

/// Losses up to one packet in so many are a healthy network's.
const HEALTHY: u64 = 100;

/// What a peer does not get, or not at once.
fn congestion(peer: &Peer) -> Option<String> {
    let is_lossy = peer.lost_packets.saturating_mul(HEALTHY) > peer.sent_packets;
    let losses = || format!("{} of {} packets lost", grouped(peer.lost_packets), grouped(peer.sent_packets));
    let parts = [
        (peer.queued_messages > 0).then(|| format!("{} messages wait", grouped(peer.queued_messages))),
        (peer.dropped_messages > 0)
            .then(|| format!("{} not sent, their claims repaired", grouped(peer.dropped_messages))),
        is_lossy.then(losses),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("to node {}: {}", peer.node, parts.join(", ")))
}

fn packets(out: &mut String, status: &Status) {
    let hooks = [(Hook::Ingress, "ingress"), (Hook::Decap, "decap"), (Hook::Egress, "egress"), (Hook::Slow, "slow")];
    line(out, "packets", "");
    let mut quiet = true;
    for (hook, label) in hooks {
        let moved = Outcome::ALL.iter().filter(|outcome| outcome.hook() == hook);
        let moved = moved.filter_map(|outcome| Some((outcome.name(), *status.outcomes.get(outcome.name())?)));
        for (index, (name, count)) in moved.filter(|(_, count)| *count > 0).enumerate() {
            quiet = false;
            let label = if index == 0 { label } else { "" };
            let _ = writeln!(out, "  {label:<9}{name:<20}{:>16}", grouped(count));
        }
    }
    if quiet {
        let _ = writeln!(out, "  none yet");
    }
}

/// A duration in the two units that say most, such as `3d 4h` or `12m 5s`.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:02} ms", microseconds / 1000, microseconds % 1000 / 10)
}

/// A count with its thousands apart: `1,048,576`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Certificate, Claims, Hook, NextHop};

    fn busy() -> Status {
        let hop = NextHop { interface: "eth0".into(), mac: "02:00:00:00:00:01".into(), mtu: 1500 };
        Status {
            version: "0.1.0".into(),
            node: 1,
            epoch: 3,
            cluster: "edge".into(),
            state: "proxy-down".into(),
            uptime_s: 273_600,
            state_since_s: 61,
            draining_s: None,
            members: 2,
            counters: [("claims_evicted".to_owned(), 7)].into(),
            hook: Some(Hook { old: "up".into(), new: "proxy-down".into(), ended_s: 60, failure: Some("exit".into()) }),
            pid: 4711,
            interfaces: vec![
                Interface { name: "eth0".into(), xdp: "native".into(), egress: "tcx".into() },
                Interface { name: "eth1".into(), xdp: "generic".into(), egress: "clsact".into() },
            ],
            services: vec![
                Service {
                    vip: "2001:db8::10".parse().unwrap(),
                    port: 5060,
                    affinity: "call".into(),
                    proxy: "unprobed".into(),
                    reason: None,
                },
                Service {
                    vip: "192.0.2.10".parse().unwrap(),
                    port: 5060,
                    affinity: "transaction".into(),
                    proxy: "down".into(),
                    reason: Some("no socket is bound to its address".into()),
                },
            ],
            claims: Claims {
                own: 1234,
                peers: 500_000,
                capacity: 1_048_576,
                table_entries: 2_097_152,
                ..Claims::default()
            },
            peers: vec![
                Peer {
                    node: 2,
                    address: "10.9.3.2".into(),
                    link: "up".into(),
                    epoch: 1,
                    rtt_us: Some(215),
                    since_s: 7205,
                    next_hop: Some(hop),
                    reason: None,
                    state: "draining".into(),
                    queued_messages: 8192,
                    dropped_messages: 12,
                    sent_packets: 2000,
                    lost_packets: 201,
                    ..Peer::default()
                },
                Peer {
                    node: 0,
                    address: "10.9.4.2".into(),
                    link: "down".into(),
                    state: "down".into(),
                    since_s: 9,
                    reason: Some("no answer".into()),
                    ..Peer::default()
                },
            ],
            outcomes: [("local_owner", 41_000_000), ("forwarded", 7), ("decapsulated", 3), ("not_sip", 0)]
                .map(|(name, count)| (name.to_owned(), count))
                .into(),
            replication: Replication {
                claims_sent: 2468,
                claims_received: 1000,
                batches_sent: 99,
                batches_received: 50,
                refused_certificates: 1,
                age_us: Some(Age { count: 1000, p50: 210, p99: 2600, max: 12_345 }),
                ..Replication::default()
            },
            certificate: Certificate {
                expires: "2028-11-24T22:00:00Z".into(),
                days_left: 729,
                authorities_expire: "2036-11-22T22:00:00Z".into(),
            },
            warnings: vec!["peer 10.9.4.2 is down".into()],
        }
    }

    /// Puts `text` behind each text of a value, keys aside.
    fn spoil(value: &mut serde_json::Value, text: &str) {
        match value {
            serde_json::Value::String(said) => said.push_str(text),
            serde_json::Value::Array(items) => items.iter_mut().for_each(|item| spoil(item, text)),
            serde_json::Value::Object(fields) => fields.values_mut().for_each(|item| spoil(item, text)),
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
        }
    }

    #[test]
    fn no_text_in_a_snapshot_drives_the_terminal_or_forges_a_row() {
        let spoiled = |text: &str| {
            let mut value = serde_json::to_value(busy()).unwrap();
            // Of these not even a text that is not theirs can come over the control socket.
            let vips: Vec<_> = busy().services.iter().map(|service| service.vip).collect();
            spoil(&mut value, text);
            for (service, vip) in value["services"].as_array_mut().unwrap().iter_mut().zip(vips) {
                service["vip"] = serde_json::to_value(vip).unwrap();
            }
            render(&serde_json::from_value(value).unwrap())
        };
        let evil = spoiled("\x1b[2J\r\n  3  10.9.9.9  up\u{9b}1m\u{202e}");
        assert!(!evil.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')), "{evil:?}");
        assert_eq!(evil.lines().count(), spoiled("x").lines().count(), "{evil}");
        assert!(spoiled(&"x".repeat(1 << 20)).len() < 1 << 20);
    }

    #[test]
    fn an_operator_sees_trouble_first_and_nothing_that_is_zero() {
        let expected = "\
WARNING       peer 10.9.4.2 is down
node          1 of cluster edge, proxy-down for 1m 1s
daemon        forwarder 0.1.0, pid 4711, epoch 3, running for 3d 4h
interfaces    eth0 (XDP native, egress tcx)
              eth1 (XDP generic, egress clsact)
services      [2001:db8::10]:5060, affinity call, proxy not probed, counts as alive
              192.0.2.10:5060, affinity transaction, proxy down: no socket is bound to its address
hook          up to proxy-down: FAILED, 1m 0s ago
claims        1,234 own, 500,000 of peers, room for 1,048,576 (47 % full)
certificate   until 2028-11-24T22:00:00Z (729 days left), authorities until 2036-11-22T22:00:00Z
peers         1 of 2 up, 2 members alive
  node  address   state     since  rtt      next hop
  2     10.9.3.2  draining  2h 0m  0.21 ms  eth0 02:00:00:00:00:01 mtu 1500
  ?     10.9.4.2  down      9s     -        no answer
replication   2,468 claims sent in 99 batches, 1,000 received in 50
              claims stood here after 0.21 ms (median), 2.60 ms (p99), 12.34 ms (max) of 1,000
              peers refused for their certificate: 1
              to node 2: 8,192 messages wait, 12 not sent, their claims repaired, 201 of 2,000 packets lost
packets
  ingress  local_owner               41,000,000
           forwarded                          7
  decap    decapsulated                       3
";
        assert_eq!(render(&busy()), expected);
    }

    #[test]
    fn a_node_alone_and_idle_says_so() {
        let text = render(&Status::default());
        assert!(text.contains("peers         none: this node stands alone\n"), "{text}");
        assert!(text.ends_with("packets\n  none yet\n"), "{text}");
        assert!(!text.contains("claims stood here"), "{text}");
    }

    #[test]
    fn the_json_comes_back_as_it_went() {
        let status = busy();
        let text = serde_json::to_string(&status).unwrap();
        assert!(!text.contains('\n'), "one line");
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    }

    #[test]
    fn every_length_of_number_is_grouped() {
        let table = [(0, "0"), (999, "999"), (1000, "1,000"), (123_456, "123,456"), (1_234_567, "1,234,567")];
        for (count, expected) in table {
            assert_eq!(grouped(count), expected);
        }
    }

    #[test]
    fn a_span_shows_its_two_largest_units() {
        let table = [(0, "0s"), (59, "59s"), (60, "1m 0s"), (3599, "59m 59s"), (3600, "1h 0m"), (90_000, "1d 1h")];
        for (seconds, expected) in table {
            assert_eq!(span(seconds), expected);
        }
    }
}
