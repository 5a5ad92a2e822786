//! A stranger on the path puts packets in a peer's name on an edge's cable: tunnel packets that are altered, cut off,
//! nested, for nobody or from elsewhere, and packets of QUIC. None reaches the proxy, none ends a link.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use forwarder::dataplane::monotonic_ns;
use forwarder::identity::{Secrets, secrets, vni};
use forwarder_common::clock::Time;
use forwarder_common::geneve::{self, Head, Inner, Kind, Sender};
use forwarder_common::ids::EtherType;
use forwarder_common::net;
use serde_json::Value;
use tests::forwarder::{CLUSTER_PORT, Cluster, Daemon, TUNNEL_PORT};
use tests::lab::{Family, Host, Lab, SIP};
use tests::poll::poll_until_true;
use tests::traffic::raw::{Cable, Part, ip_packet, udp};
use tests::traffic::{Endpoint, Sip, vip};

/// Where the Geneve header begins in a tunnel packet's UDP payload, and the packet inside.
const INSIDE: usize = geneve::TUNNEL - net::UDP;
/// Longer than a link lives without a word.
const LONG: Duration = Duration::from_secs(3);
/// Packets of QUIC of each form.
const FORGED: u8 = 40;

#[test]
fn tunnel_packets_that_are_forged_reach_no_proxy_and_are_named_v4() -> Result<()> {
    tunnel(Family::V4)
}

#[test]
fn tunnel_packets_that_are_forged_reach_no_proxy_and_are_named_v6() -> Result<()> {
    tunnel(Family::V6)
}

/// What is between a stranger and a proxy.
struct Forger {
    family: Family,
    keys: Secrets,
}

impl Forger {
    /// The UDP payload of a tunnel packet, as node `node` would send it.
    fn tunnel(&self, node: u16, kind: Kind, time: Time, packet: &[u8]) -> Result<Vec<u8>> {
        let form = if self.family == Family::V4 { EtherType::IPV4 } else { EtherType::IPV6 };
        let inner = net::ip(&packet, 0, form).and_then(|ip| Inner::read(&packet, &ip)).context("read a packet")?;
        let key = self.keys.tag_key.get(usize::from(self.keys.tag_epoch)).copied().context("find the key")?;
        let sender = Sender { head: Head::new(node, kind, self.keys.tag_epoch, time), vni: vni("lab"), key };
        let words = geneve::header(&sender, &inner);
        Ok([words.map(u64::to_le_bytes).as_flattened(), packet].concat())
    }

    /// A SIP message from the client to an address and port.
    fn message(&self, to: SocketAddr, call_id: &str) -> Vec<u8> {
        let sip = Sip { call_id, cseq: 1, method: "INVITE", branch: "z9hG4bKf", via: vip(self.family) };
        let client = SocketAddr::new(Host::Client.address(self.family), SIP);
        ip_packet(client.ip(), to.ip(), None, &udp(client, to, &sip.request()))
    }

    /// In a peer's name to edge 1.
    fn from(&self, source: IpAddr, payload: &[u8]) -> Vec<u8> {
        let (from, to) = (SocketAddr::new(source, 50_000), SocketAddr::new(self.edge(1), TUNNEL_PORT));
        ip_packet(source, to.ip(), None, &udp(from, to, payload))
    }

    fn edge(&self, edge: u8) -> IpAddr {
        Host::Edge(edge).address(self.family)
    }

    /// Tunnel packets with an outcome that each must have.
    fn forgeries(&self, good: &[u8]) -> Result<Vec<(&'static str, Vec<u8>, &'static str)>> {
        let (peer, service, now) = (self.edge(2), vip(self.family), Time::at(monotonic_ns()));
        let old = Time(now.0.wrapping_sub(2 * Time::WINDOW));
        let data = |time, packet: &[u8]| self.tunnel(2, Kind::Data, time, packet);
        let inside = good.get(INSIDE..).context("find the packet inside")?;
        let mut all = vec![
            ("sent long ago", self.from(peer, &data(old, inside)?), "decap_stale"),
            (
                "sent in the future",
                self.from(peer, &data(Time(now.0.wrapping_add(2 * Time::WINDOW)), inside)?),
                "decap_stale",
            ),
            ("from another peer's address", self.from(self.edge(3), good), "decap_unknown_peer"),
            ("from a stranger's address", self.from(Host::Client.address(self.family), good), "decap_unknown_peer"),
        ];
        for node in [0, 1, 4, 1023, u16::MAX] {
            let payload = self.tunnel(node, Kind::Data, now, inside)?;
            all.push(("of a node that is none or another", self.from(peer, &payload), "decap_unknown_peer"));
        }
        let other_port = SocketAddr::new(service.ip(), SIP + 1);
        for to in [other_port, SocketAddr::new(self.edge(1), SIP), SocketAddr::new(self.edge(1), 22)] {
            let payload = data(now, &self.message(to, "nobody@forged"))?;
            all.push(("for no service", self.from(peer, &payload), "decap_not_service"));
        }
        // What is inside is a tunnel packet for this node, with a good tag.
        let (from, to) = (SocketAddr::new(peer, 50_000), SocketAddr::new(self.edge(1), TUNNEL_PORT));
        let nested = data(now, &ip_packet(peer, to.ip(), None, &udp(from, to, good)))?;
        all.push(("nested", self.from(peer, &nested), "decap_not_service"));
        let part = Part { id: 7, offset: 0, more: true };
        let fragment = ip_packet(peer, service.ip(), Some(part), &[0; 64]);
        all.push(("a fragment as a whole packet", self.from(peer, &data(now, &fragment)?), "decap_not_service"));
        // All of the tunnel's header, and of the packet inside what the tag covers: addresses and the UDP header.
        let covered = if self.family == Family::V4 { 12..28 } else { 8..48 };
        for at in (0..INSIDE).chain(covered.map(|at| INSIDE + at)) {
            let mut payload = good.to_vec();
            *payload.get_mut(at).context("alter a byte")? ^= 0x80;
            all.push(("with an altered byte", self.from(peer, &payload), ""));
        }
        for length in 0..INSIDE + 28 {
            let payload = good.get(..length).context("cut it off")?;
            all.push(("cut off", self.from(peer, payload), "decap_malformed"));
        }
        all.push(("with a byte too many", self.from(peer, &[good, &[0]].concat()), "decap_malformed"));
        Ok(all)
    }
}

fn tunnel(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let proxy = Endpoint::proxy(lab, 1, family)?;
        let mut cluster = Cluster::start(lab, family)?;
        let forger = Forger { family, keys: secrets(&cluster.authority.file("cluster.secret"))? };
        let cable = Cable::open(lab, 1, family)?;
        let count = |cluster: &mut Cluster, name: &str| Ok::<_, anyhow::Error>(cluster.edge(1)?.outcomes()?.of(name));
        // The peers' clocks are known once their programs have answered.
        let good = |call_id: &str| {
            forger.tunnel(2, Kind::Data, Time::at(monotonic_ns()), &forger.message(vip(family), call_id))
        };
        poll_until_true("the peer's clock is known", Duration::from_secs(10), || {
            let old = Time(Time::at(monotonic_ns()).0.wrapping_sub(3 * Time::WINDOW));
            let before = count(&mut cluster, "decap_stale")?;
            let packet = forger.message(vip(family), "clock@forged");
            cable.send(&forger.from(forger.edge(2), &forger.tunnel(2, Kind::Data, old, &packet)?))?;
            while !proxy.is_empty()? {
                proxy.receive()?;
            }
            Ok(count(&mut cluster, "decap_stale")? > before)
        })?;
        // What none of the forgeries is: it arrives, and once more if it is sent once more at once.
        let packet = forger.from(forger.edge(2), &good("good@forged")?);
        for _ in 0..2 {
            cable.send(&packet)?;
            ensure!(String::from_utf8_lossy(&proxy.receive()?.0).contains("good@forged"), "another message came");
        }
        let template = good("forged@forged")?;
        for (what, packet, outcome) in forger.forgeries(&template)? {
            let names = ["decap_malformed", "decap_unknown_peer", "decap_bad_tag", "decap_not_service", "decap_stale"];
            let before = cluster.edge(1)?.outcomes()?;
            cable.send(&packet)?;
            poll_until_true(&format!("edge 1 names what is {what}"), Duration::from_secs(5), || {
                let now = cluster.edge(1)?.outcomes()?;
                Ok(names.iter().any(|name| (outcome.is_empty() || *name == outcome) && now.of(name) > before.of(name)))
            })?;
            ensure!(proxy.is_empty()?, "the proxy has got what is {what}");
        }
        // A replay after its time.
        poll_until_true("a replay is too old", Duration::from_secs(10), || {
            let before = count(&mut cluster, "decap_stale")?;
            cable.send(&packet)?;
            while !proxy.is_empty()? {
                proxy.receive()?;
            }
            Ok(count(&mut cluster, "decap_stale")? > before)
        })?;
        // A payload that is altered with what the tag covers left alone is caught by the checksum inside.
        let mut altered = good("sum@forged")?;
        *altered.last_mut().context("alter the payload")? ^= 1;
        let before = count(&mut cluster, "decapsulated")?;
        cable.send(&forger.from(forger.edge(2), &altered))?;
        poll_until_true("it comes out of the tunnel", Duration::from_secs(5), || {
            Ok(count(&mut cluster, "decapsulated")? > before)
        })?;
        cable.send(&forger.from(forger.edge(2), &good("last@forged")?))?;
        ensure!(String::from_utf8_lossy(&proxy.receive()?.0).contains("last@forged"), "the proxy has got a forgery");
        ensure!(proxy.is_empty()?, "the proxy has got more");
        cluster.stop()
    })
}

#[test]
fn packets_of_quic_in_a_peers_name_end_no_link_v4() -> Result<()> {
    quic(Family::V4)
}

#[test]
fn packets_of_quic_in_a_peers_name_end_no_link_v6() -> Result<()> {
    quic(Family::V6)
}

/// Links with a peer, and when each began.
fn links(daemon: &Daemon) -> Result<Vec<(u64, String)>> {
    let status = daemon.status()?;
    let peers = status.get("peers").and_then(Value::as_array).context("find the peers")?;
    let link = |peer: &Value| {
        Some((peer.get("node")?.as_u64()?, peer.get("link").and_then(Value::as_str).unwrap_or_default().to_owned()))
    };
    Ok(peers.iter().filter_map(link).collect())
}

fn quic(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, family)?;
        let cable = Cable::open(lab, 1, family)?;
        let to = SocketAddr::new(Host::Edge(1).address(family), CLUSTER_PORT);
        let before = links(cluster.edge(1)?)?;
        let begun = Instant::now();
        let mut bytes = (0_u32..).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8);
        while begun.elapsed() < LONG {
            for source in [Host::Edge(2), Host::Edge(3), Host::Client].map(|host| host.address(family)) {
                let from = SocketAddr::new(source, CLUSTER_PORT);
                for length in 0..FORGED {
                    let noise: Vec<u8> = bytes.by_ref().take(usize::from(length) * 30).collect();
                    // RFC 9000 §17: short headers, as a stateless reset has one; negotiation of the version; Initial,
                    // 0-RTT, Handshake and Retry packets of version 1, with connection ids of eight bytes.
                    let heads: [&[u8]; 6] = [
                        &[0x40],
                        &[0x80, 0, 0, 0, 0, 8],
                        &[0xc0, 0, 0, 0, 1, 8],
                        &[0xd0, 0, 0, 0, 1, 8],
                        &[0xe0, 0, 0, 0, 1, 8],
                        &[0xf0, 0, 0, 0, 1, 8],
                    ];
                    for head in heads {
                        cable.send(&ip_packet(source, to.ip(), None, &udp(from, to, &[head, &noise].concat())))?;
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        ensure!(links(cluster.edge(1)?)? == before, "links changed: {before:?}, then {:?}", links(cluster.edge(1)?)?);
        for daemon in &mut cluster.daemons {
            daemon.process().must_run()?;
            ensure!(!daemon.log().contains("link down"), "a link has ended: {}", daemon.log());
        }
        cluster.stop()
    })
}
