//! A snapshot in Prometheus' text format, version 0.0.4.

use std::{
    fmt::{Display, Write as _},
    net::SocketAddr,
};

use forwarder_common::outcome::{Hook, Outcome};

use crate::status::{Peer, Status};

/// The states of a node.
const STATES: [&str; 4] = ["joining", "up", "draining", "proxy-down"];

/// The snapshot as text; units are base units, as Prometheus wants them.
#[must_use]
pub fn render(status: &Status) -> String {
    let mut page = Page(String::new());
    let node = status.node.to_string();
    let labels =
        [("version", status.version.as_str()), ("cluster", &status.cluster), ("node", &node), ("state", &status.state)];
    page.family("forwarder_info", "gauge", "The daemon; always 1.", [(labels.as_slice(), 1)]);
    page.single("forwarder_uptime_seconds", "gauge", "Seconds since the daemon started.", status.uptime_s);
    let packets = Outcome::ALL.iter().map(|outcome| {
        let count = status.outcomes.get(outcome.name()).copied().unwrap_or(0);
        ([("hook", hook(*outcome)), ("outcome", outcome.name())], count)
    });
    page.family("forwarder_packets_total", "counter", "Packets by the place and the name of their outcome.", packets);
    let claims = &status.claims;
    let owners = [([("owner", "own")], claims.own), ([("owner", "peers")], claims.peers)];
    page.family("forwarder_claims", "gauge", "Unexpired claims in the table.", owners);
    page.single("forwarder_claims_capacity", "gauge", "Claims that the configuration asks to hold.", claims.capacity);
    page.single("forwarder_claim_table_entries", "gauge", "Slots of the claim table.", claims.table_entries);
    let owners = claims.by_owner.iter().map(|(node, count)| ([("node", node.to_string())], *count));
    let owners: Vec<_> = owners.collect();
    let owners = owners.iter().map(|([(label, node)], count)| ([(*label, node.as_str())], *count));
    page.family("forwarder_claims_by_owner", "gauge", "Unexpired claims in the table, by their owner.", owners);
    let help = "Claims that the daemon did not write because the table was full of others that are worth more.";
    page.single("forwarder_claims_not_kept_total", "counter", help, claims.not_kept);
    peers(&mut page, &status.peers);
    standing(&mut page, status);
    replication(&mut page, status);
    let days = status.certificate.days_left;
    page.single("forwarder_certificate_days_left", "gauge", "Days until this node's certificate ends.", days);
    page.single("forwarder_warnings", "gauge", "Warnings in `forwarder status`.", status.warnings.len());
    page.0
}

const fn hook(outcome: Outcome) -> &'static str {
    match outcome.hook() {
        Hook::Ingress => "ingress",
        Hook::Decap => "decap",
        Hook::Egress => "egress",
        Hook::Slow => "slow",
    }
}

fn peers(page: &mut Page, peers: &[Peer]) {
    let ids = peers.iter().map(|peer| peer.node.to_string()).collect::<Vec<_>>();
    let labelled = || {
        let labels = |(peer, id)| -> (&Peer, _) { (peer, [("node", String::as_str(id)), ("address", &peer.address)]) };
        peers.iter().zip(&ids).map(labels)
    };
    let states = labelled().map(|(peer, [node, address])| ([node, address, ("state", peer.state.as_str())], 1));
    page.family("forwarder_peer_state", "gauge", "The state of a peer, as a label; always 1.", states);
    let up = labelled().map(|(peer, labels)| (labels, u8::from(peer.link == "up")));
    page.family("forwarder_peer_up", "gauge", "Whether the link to a peer is up.", up);
    let resolved = labelled().map(|(peer, labels)| (labels, u8::from(peer.next_hop.is_some())));
    page.family("forwarder_peer_next_hop", "gauge", "Whether the next hop to a peer is known.", resolved);
    let rtt = labelled().filter_map(|(peer, labels)| Some((labels, seconds(peer.rtt_us?))));
    page.family("forwarder_peer_rtt_seconds", "gauge", "Round-trip time of the link to a peer.", rtt);
    let queued = labelled().map(|(peer, labels)| (labels, peer.queued_messages));
    page.family("forwarder_peer_queued_messages", "gauge", "Messages that wait to be sent to a peer.", queued);
    let dropped = labelled().map(|(peer, labels)| (labels, peer.dropped_messages));
    let help = "Messages to a peer that were not sent; their claims are repaired.";
    page.family("forwarder_peer_dropped_messages_total", "counter", help, dropped);
    let sent = labelled().map(|(peer, labels)| (labels, peer.sent_packets));
    page.family("forwarder_peer_sent_packets_total", "counter", "UDP datagrams sent over the link to a peer.", sent);
    let bytes = labelled().map(|(peer, labels)| (labels, peer.sent_bytes));
    page.family("forwarder_peer_sent_bytes_total", "counter", "Their bytes, without UDP's and IP's headers.", bytes);
    let lost = labelled().map(|(peer, labels)| (labels, peer.lost_packets));
    page.family("forwarder_peer_lost_packets_total", "counter", "Those of them that were lost and sent again.", lost);
    let mtu = labelled().filter_map(|(peer, labels)| Some((labels, peer.next_hop.as_ref()?.mtu)));
    page.family("forwarder_peer_mtu_bytes", "gauge", "Largest outer packet to a peer.", mtu);
}

fn standing(page: &mut Page, status: &Status) {
    let states = STATES.map(|state| ([("state", state)], u8::from(status.state == state)));
    page.family("forwarder_state", "gauge", "Which of its states the node is in: 1 for that one.", states);
    let draining = u8::from(status.draining_s.is_some());
    page.single("forwarder_draining", "gauge", "Whether the operator takes the node out of service.", draining);
    let addresses = status.services.iter().map(|service| SocketAddr::new(service.vip, service.port).to_string());
    let addresses = addresses.collect::<Vec<_>>();
    let probed = status.services.iter().zip(&addresses).filter(|(service, _)| service.proxy != "unprobed");
    let alive = probed.map(|(service, address)| ([("service", address.as_str())], u8::from(service.proxy == "alive")));
    page.family("forwarder_proxy_up", "gauge", "Whether the proxy of a service that is probed answers.", alive);
    let Some(hook) = &status.hook else { return };
    let failed = u8::from(hook.failure.is_some());
    page.single("forwarder_hook_failed", "gauge", "Whether the last run of the hook has failed.", failed);
}

fn replication(page: &mut Page, status: &Status) {
    let counts = &status.replication;
    let claims = [([("direction", "sent")], counts.claims_sent), ([("direction", "received")], counts.claims_received)];
    page.family("forwarder_replicated_claims_total", "counter", "Claims that went over the links.", claims);
    let batches =
        [([("direction", "sent")], counts.batches_sent), ([("direction", "received")], counts.batches_received)];
    page.family("forwarder_replication_batches_total", "counter", "Batches that went over the links.", batches);
    let refused = counts.refused_certificates;
    page.single("forwarder_refused_certificates_total", "counter", "Peers refused for their certificate.", refused);
    let errors = counts.protocol_errors;
    page.single("forwarder_protocol_errors_total", "counter", "Links dropped for what came over them.", errors);
    page.single("forwarder_send_queue_claims", "gauge", "Claims that wait to be sent.", counts.send_queue);
    let (asked, found) = (counts.asks_sent, counts.asks_found);
    page.single("forwarder_asks_sent_total", "counter", "Questions about the owner of a held message.", asked);
    page.single("forwarder_asks_found_total", "counter", "Questions that a claim has answered.", found);
    let counted = status.counters.iter().map(|(name, count)| ([("what", name.as_str())], *count));
    page.family("forwarder_cluster_total", "counter", "What the cluster's core and its links have counted.", counted);
    page.single("forwarder_members", "gauge", "Other members of the cluster that are alive.", status.members);
    let Some(age) = counts.age_us else { return };
    let ages = [("p50", age.p50), ("p99", age.p99), ("max", age.max)].map(|(name, us)| ([("of", name)], seconds(us)));
    let help = "Age of a peer's claim when it is written into this table.";
    page.family("forwarder_claim_age_seconds", "gauge", help, ages);
}

/// Microseconds as seconds, exactly.
fn seconds(microseconds: u64) -> String {
    format!("{}.{:06}", microseconds / 1_000_000, microseconds % 1_000_000)
}

struct Page(String);

impl Page {
    /// One metric with one line for each set of labels; nothing at all where there is none.
    fn family<'a, L, V>(&mut self, name: &str, kind: &str, help: &str, lines: impl IntoIterator<Item = (L, V)>)
    where
        L: AsRef<[(&'static str, &'a str)]>,
        V: Display,
    {
        let mut lines = lines.into_iter().peekable();
        if lines.peek().is_none() {
            return;
        }
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in lines {
            let labels = labels.as_ref().iter().map(|(key, text)| format!("{key}=\"{}\"", escape(text)));
            let labels = labels.collect::<Vec<_>>().join(",");
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help, [([], value)]);
    }
}

/// A label's value: backslash, quote and line feed are escaped.
fn escape(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{self, Age, NextHop, Service};

    #[test]
    fn counters_gauges_and_labels_are_in_the_text_format() {
        let mut status = Status { version: "0.1.0".into(), node: 1, cluster: "edge".into(), ..Status::default() };
        status.state = "odd\"\\\n".into();
        status.outcomes.insert("forwarded".into(), 7);
        status.certificate.days_left = -1;
        status.replication.age_us = Some(Age { count: 1, p50: 210, p99: 2_600_000, max: 12_345_678 });
        let hop = NextHop { interface: "eth0".into(), mac: String::new(), mtu: 1500 };
        let peer = Peer { node: 2, address: "10.9.3.2".into(), link: "up".into(), ..Peer::default() };
        status.peers =
            vec![Peer { rtt_us: Some(215), next_hop: Some(hop), state: "draining".into(), ..peer.clone() }, peer];
        status.peers[0].lost_packets = 201;
        let service = |port, proxy: &str| Service {
            vip: "192.0.2.10".parse().unwrap(),
            port,
            affinity: String::new(),
            proxy: proxy.to_owned(),
            reason: None,
        };
        (status.members, status.counters) = (3, [("conflicts_lost".to_owned(), 4)].into());
        status.services = vec![service(5060, "alive"), service(5062, "down"), service(5064, "unprobed")];
        status.hook = Some(status::Hook { failure: Some("exit code 1".into()), ..status::Hook::default() });
        let text = render(&status);
        let lines = text.lines().collect::<Vec<_>>();
        for line in [
            r#"forwarder_info{version="0.1.0",cluster="edge",node="1",state="odd\"\\\n"} 1"#,
            "# TYPE forwarder_packets_total counter",
            r#"forwarder_packets_total{hook="ingress",outcome="forwarded"} 7"#,
            r#"forwarder_packets_total{hook="decap",outcome="decapsulated"} 0"#,
            r#"forwarder_peer_rtt_seconds{node="2",address="10.9.3.2"} 0.000215"#,
            r#"forwarder_peer_mtu_bytes{node="2",address="10.9.3.2"} 1500"#,
            r#"forwarder_peer_lost_packets_total{node="2",address="10.9.3.2"} 201"#,
            r#"forwarder_claim_age_seconds{of="max"} 12.345678"#,
            "forwarder_certificate_days_left -1",
            r#"forwarder_peer_state{node="2",address="10.9.3.2",state="draining"} 1"#,
            r#"forwarder_proxy_up{service="192.0.2.10:5060"} 1"#,
            r#"forwarder_proxy_up{service="192.0.2.10:5062"} 0"#,
            "forwarder_draining 0",
            "forwarder_members 3",
            r#"forwarder_cluster_total{what="conflicts_lost"} 4"#,
            "forwarder_hook_failed 1",
        ] {
            assert_eq!(lines.iter().filter(|found| **found == line).count(), 1, "{line}\n{text}");
        }
        let packets = lines.iter().filter(|line| line.starts_with("forwarder_packets_total{"));
        assert_eq!(packets.count(), Outcome::ALL.len());
        assert!(!text.contains("5064"), "a proxy that nobody probes is neither up nor down");
        status.state = "proxy-down".into();
        let text = render(&status);
        assert!(text.contains("forwarder_state{state=\"up\"} 0\nforwarder_state{state=\"draining\"} 0\n"), "{text}");
        assert!(text.contains("forwarder_state{state=\"proxy-down\"} 1\n"), "{text}");
    }

    #[test]
    fn no_metric_has_a_head_without_a_line() {
        let text = render(&Status::default());
        assert!(!text.contains("forwarder_peer_up"), "{text}");
        assert!(!text.contains("forwarder_claim_age_seconds"), "{text}");
    }
}
