//! A stranger who sends an edge ICMP messages of every kind about packets that the edge has never sent: nothing of it
//! is believed.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::forwarder::outcomes::{CALLS, HELD};
use tests::forwarder::{CLUSTER_PORT, Cluster, Daemon, TUNNEL_PORT};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Host, Lab, SIP, routing};
use tests::load::{Load, run_load};
use tests::poll::poll_until_true;
use tests::traffic::raw::{Cable, checksum};
use tests::traffic::vip;

/// Codes of each type that are tried: more than any type has.
const CODES: u8 = 16;
/// MTUs that a path is said to have.
const MTUS: [u32; 4] = [0, 68, 552, 1280];
/// Longer than a probe takes to be missed twice, a route to be looked at again, and a link to end.
const LONG: Duration = Duration::from_secs(4);
/// Messages at a time: what a cable takes at once.
const BURST: usize = 200;
/// A port that the XDP program gives to a tunnel packet.
const ENTROPY: u16 = 50_000;

#[test]
fn icmp_about_packets_that_were_never_sent_changes_nothing_v4() -> Result<()> {
    nothing_is_believed(Family::V4)
}

#[test]
fn icmp_about_packets_that_were_never_sent_changes_nothing_v6() -> Result<()> {
    nothing_is_believed(Family::V6)
}

fn nothing_is_believed(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let hook = routing::hook(lab)?;
        let mut cluster = Cluster::start_with(lab, family, |config| config.probed().hooked(&hook))?;
        for daemon in &mut cluster.daemons {
            daemon.wait_for_state("up")?;
        }
        poll_until_true("the hook was told that the edge is up", Duration::from_secs(5), || {
            Ok(routing::hooked(lab, 1) == "joining up\n")
        })?;
        let before = standing(cluster.edge(1)?)?;
        let outcomes = cluster.outcomes()?;
        let count = forge(lab, family)?;
        let waited = Instant::now();
        // Whatever is wrong by now goes wrong within that time; what is right is looked at all the while.
        while waited.elapsed() < LONG {
            let now = standing(cluster.edge(1)?)?;
            ensure!(now.same == before.same, "{count} forged messages changed\n{:#}\nto\n{:#}", before.same, now.same);
            let is_older = |(now, before): (&u64, &u64)| now >= before;
            ensure!(
                now.ages.len() == before.ages.len() && now.ages.iter().zip(&before.ages).all(is_older),
                "a link, or the state, is younger than before: {:?}, {:?}",
                before.ages,
                now.ages
            );
        }
        ensure!(routing::hooked(lab, 1) == "joining up\n", "the hook was told {:?}", routing::hooked(lab, 1));
        let log = cluster.edge(1)?.log();
        for word in ["link down", "is down", "stopped or restarted"] {
            ensure!(!log.contains(word), "the log has {word:?}: {log}");
        }
        // The fast path goes on, and nothing goes the slow way for its size.
        let load = Load { count: 60, ..Load::usual(family) };
        let (report, _) = run_load(lab, "forged", &load, &edges, Some(&cluster))?;
        report.ensure_perfect(&load)?;
        ensure!(report.forwarded > 0, "nothing was forwarded: {report:?}");
        // The forged messages themselves are none of a service.
        cluster.outcomes()?.since(&outcomes).only("calls after a forgery", &CALLS, &HELD)?;
        cluster.stop()
    })
}

/// What an edge takes itself and its peers for.
struct Standing {
    /// What must stay as it was.
    same: Value,
    /// Seconds since the state and each link began.
    ages: Vec<u64>,
}

fn standing(daemon: &Daemon) -> Result<Standing> {
    let status = daemon.status()?;
    let part = |of: &Value, names: &[&str]| -> Result<Value> {
        let found =
            names.iter().map(|name| Ok(((*name).to_owned(), of.get(*name).context((*name).to_owned())?.clone())));
        found.collect()
    };
    let mut same = part(&status, &["state", "epoch", "services", "hook", "members"])?;
    let mut ages = vec![age(&status, "state_since_s")?];
    let mut links = Vec::new();
    for peer in status.get("peers").and_then(Value::as_array).context("find the peers")? {
        links.push(part(peer, &["node", "link", "state", "epoch", "next_hop", "reason"])?);
        ages.push(age(peer, "since_s")?);
    }
    if let Some(hook) = same.get_mut("hook").and_then(Value::as_object_mut) {
        hook.remove("ended_s");
    }
    same.as_object_mut().context("read the status")?.insert("peers".to_owned(), links.into());
    Ok(Standing { same, ages })
}

fn age(of: &Value, name: &str) -> Result<u64> {
    of.get(name).and_then(Value::as_u64).with_context(|| format!("find {name}"))
}

/// Sends edge 1 every message about every flow, and sees to it that each arrives; how many.
fn forge(lab: &Lab, family: Family) -> Result<u64> {
    let cable = Cable::open(lab, 1, family)?;
    let mut messages = Vec::new();
    let gateway = Host::Edge(1).gateway(family);
    // A stranger can put any address into a packet, that of the gateway too; its hop limit is what is left.
    let sources = [(Host::Client.address(family), 60), (gateway, 60), (gateway, 255)];
    for Quoted { from: target, packet: about } in quoted(lab, family)? {
        for (source, hops) in sources {
            for kind in 0..=255 {
                // Only of those that quote a packet the code says more.
                for code in 0..if quotes(family, kind) { CODES } else { 1 } {
                    let body = body(family, kind, &about);
                    let rests = rests(family, kind, code).into_iter();
                    messages.extend(rests.map(|rest| icmp(source, target, hops, [kind, code], rest, &body)));
                }
            }
        }
    }
    for burst in messages.chunks(BURST) {
        let before = taken(lab, family)?;
        burst.iter().try_for_each(|message| cable.send(message))?;
        poll_until_true("the edge takes in what was forged", Duration::from_secs(5), || {
            Ok(taken(lab, family)? - before >= burst.len() as u64)
        })?;
    }
    Ok(messages.len() as u64)
}

/// ICMP messages that the kernel of edge 1 has taken in.
fn taken(lab: &Lab, family: Family) -> Result<u64> {
    lab.host(Host::Edge(1)).within(|| {
        let text = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).context("read a counter");
        let count = match family {
            // A line of names and one of numbers, the first of which is that of the messages taken in.
            Family::V4 => {
                text("snmp")?.lines().filter_map(|line| line.strip_prefix("Icmp: ")).nth(1).map(str::to_owned)
            }
            Family::V6 => text("snmp6")?.lines().find_map(|line| line.strip_prefix("Icmp6InMsgs")).map(str::to_owned),
        };
        let count = count.and_then(|count| count.split_whitespace().next()?.parse().ok());
        count.context("find the count of ICMP messages")
    })
}

/// A packet that edge 1 is said to have sent.
struct Quoted {
    from: IpAddr,
    packet: Vec<u8>,
}

/// One of each flow that the daemon or its programs have.
fn quoted(lab: &Lab, family: Family) -> Result<Vec<Quoted>> {
    let (own, service) = (Host::Edge(1).address(family), vip(family));
    let mut flows = Vec::new();
    let probes = probe_ports(lab, family)?;
    ensure!(!probes.is_empty(), "no socket of a probe is found");
    for port in probes {
        flows.push((SocketAddr::new(service.ip(), port), service));
    }
    for peer in [2, 3].map(|edge| Host::Edge(edge).address(family)) {
        for (from, to) in [(TUNNEL_PORT, TUNNEL_PORT), (ENTROPY, TUNNEL_PORT), (CLUSTER_PORT, CLUSTER_PORT)] {
            flows.push((SocketAddr::new(own, from), SocketAddr::new(peer, to)));
        }
    }
    let udp = flows.into_iter().map(|(from, to)| {
        let [from_port, to_port] = [from.port(), to.port()].map(u16::to_be_bytes);
        let header = [&from_port[..], &to_port, &[0, 200, 0, 0]].concat();
        Quoted { from: from.ip(), packet: ip(from.ip(), to.ip(), 17, 64, &header) }
    });
    let mut all: Vec<Quoted> = udp.collect();
    for peer in [2, 3].map(|edge| Host::Edge(edge).address(family)) {
        // An echo reply, which the kernel sends by itself, a segment of TCP, and what has no header that it knows.
        let (icmp, reply) = match family {
            Family::V4 => (1, 0),
            Family::V6 => (58, 129),
        };
        for (protocol, header) in [(icmp, [reply, 0, 0, 0, 0, 7, 0, 1]), (6, [0, 22, 0, 22, 0, 0, 0, 1]), (255, [0; 8])]
        {
            all.push(Quoted { from: own, packet: ip(own, peer, protocol, 64, &header) });
        }
    }
    Ok(all)
}

/// The ports at the service's address that are not the service's.
fn probe_ports(lab: &Lab, family: Family) -> Result<Vec<u16>> {
    let option = match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    };
    let sockets = lab.host(Host::Edge(1)).run("ss", &[option, "-Huan"])?;
    let locals = sockets.lines().filter_map(|line| line.split_whitespace().nth(3)?.parse::<SocketAddr>().ok());
    let here = locals.filter(|local| local.ip() == family.vip() && local.port() != SIP);
    Ok(here.map(|local| local.port()).collect())
}

/// Whether messages of this type quote the packet that they are about: RFC 792, RFC 4443, RFC 4861.
const fn quotes(family: Family, kind: u8) -> bool {
    match family {
        Family::V4 => matches!(kind, 3 | 4 | 5 | 11 | 12),
        Family::V6 => matches!(kind, 1..=4 | 137),
    }
}

/// What may stand in the four bytes behind the checksum.
fn rests(family: Family, kind: u8, code: u8) -> Vec<[u8; 4]> {
    match (family, kind, code) {
        (Family::V4, 3, 4) | (Family::V6, 2, _) => MTUS.iter().map(|mtu| mtu.to_be_bytes()).collect(),
        // The router to be used instead: the present one, the client, and one that is not there.
        (Family::V4, 5, _) => {
            let routers = [Host::Edge(1).gateway(family), Host::Client.address(family)];
            let routers = routers.into_iter().filter_map(|router| match router {
                IpAddr::V4(router) => Some(router.octets()),
                IpAddr::V6(_) => None,
            });
            routers.chain([[10, 9, 2, 77]]).collect()
        }
        _ => vec![[0; 4], [255; 4]],
    }
}

/// What follows: the quoted packet; in a redirect of IPv6 behind the new router and the peer (RFC 4861 §4.5).
fn body(family: Family, kind: u8, about: &[u8]) -> Vec<u8> {
    if family == Family::V4 || kind != 137 {
        return about.to_vec();
    }
    let mut body = Vec::new();
    if let IpAddr::V6(router) = Host::Edge(1).gateway(family) {
        body.extend(router.octets());
    }
    body.extend(about.get(24..40).unwrap_or_default());
    // The option "redirected header", in units of eight bytes.
    let units = u8::try_from((8 + about.len()).div_ceil(8)).unwrap_or(u8::MAX);
    body.extend([4, units, 0, 0, 0, 0, 0, 0]);
    body.extend(about);
    body.resize(32 + usize::from(units) * 8, 0);
    body
}

fn icmp(from: IpAddr, to: IpAddr, hops: u8, [kind, code]: [u8; 2], rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0], &rest[..], body].concat();
    let mut summed = message.clone();
    let protocol = if let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) {
        // RFC 8200 §8.1: the pseudo-header, in front of what is a multiple of two bytes long.
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
        summed = [&from.octets()[..], &to.octets(), &length, &[0, 58], &message].concat();
        58
    } else {
        1
    };
    message.splice(2..4, checksum(&summed).to_be_bytes());
    ip(from, to, protocol, hops, &message)
}

/// An IP packet.
fn ip(from: IpAddr, to: IpAddr, protocol: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
            let mut packet = vec![0x45, 0, high, low, 0, 1, 0, 0, hops, protocol, 0, 0];
            packet.extend(from.octets());
            packet.extend(to.octets());
            let sum = checksum(&packet).to_be_bytes();
            packet.splice(10..12, sum);
            packet.extend(payload);
            packet
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
            let head = [0x60, 0, 0, 0, high, low, protocol, hops];
            [&head[..], &from.octets(), &to.octets(), payload].concat()
        }
        _ => Vec::new(),
    }
}
