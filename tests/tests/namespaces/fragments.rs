//! Fragments that no honest host sends, at every edge: nothing crashes or grows, and calls go on.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::forwarder::Cluster;
use tests::forwarder::outcomes::{CALLS, HELD};
use tests::kamailio::Kamailio;
use tests::lab::{EDGES, Family, Lab};
use tests::poll::poll_until_true;
use tests::sipp::{Kind, Shape, Sipp};
use tests::traffic::raw::{Cable, Part, ip_packet, udp};
use tests::traffic::{Sip, vip};

/// Calls, at so many a second.
const CALLS_MADE: (u32, u32) = (120, 20);
/// Datagrams of which one fragment comes and no other.
const UNFINISHED: u16 = 20_000;
/// Most memory of a daemon, in KiB, above what it has before.
const GROWTH_KIB: u64 = 64 * 1024;

/// Where all of it may end, beside [`CALLS`] and [`HELD`]: one of the lies tells the truth, a reply that nobody knows.
const ENDS: [&str; 19] = [
    // Its IP length lies, so that no kernel sends it on.
    "slow_failed",
    "malformed",
    "decap_malformed",
    "slow_refused",
    "punted_fragment",
    "forwarded_fragment",
    "decap_punted_fragment",
    "punt_overflow",
    "fragment_overflow",
    "fragment_over_peer",
    "slow_over_peer",
    "slow_reassembling",
    "slow_reassembled",
    "slow_dropped_fragment",
    "slow_not_sip",
    "slow_received",
    "egress_fragment",
    "egress_punted",
    "decap_fragment",
];

#[test]
fn bad_fragments_harm_nothing_v4() -> Result<()> {
    bad_fragments_harm_nothing(Family::V4)
}

#[test]
fn bad_fragments_harm_nothing_v6() -> Result<()> {
    bad_fragments_harm_nothing(Family::V6)
}

fn bad_fragments_harm_nothing(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let mut cluster = Cluster::start(lab, family)?;
        let cables: Result<Vec<Cable>> = (1..=EDGES).map(|edge| Cable::open(lab, edge, family)).collect();
        let cables = cables?;
        let before = cluster.outcomes()?;
        let memory = peaks(&cluster)?;
        let mut callee = Sipp::callee(lab, Kind::Call, family, Shape::default())?;
        let mut caller = Sipp::caller(lab, Kind::Call, family, CALLS_MADE, Shape::default())?;
        poll_until_true("the first calls have begun", Duration::from_secs(10), || Ok(caller.begun() > 0))?;
        let attack = Attack::new(family);
        let mut packets = attack.contradictions()?;
        packets.extend(attack.endless());
        packets.extend(attack.lies());
        packets.extend(attack.unfinished());
        for (cable, packet) in cables.iter().cycle().zip(&packets) {
            cable.send(packet)?;
        }
        // The same again, each set whole at one edge.
        for (cable, packet) in cables.iter().flat_map(|cable| attack_of(cable, &packets)) {
            cable.send(packet)?;
        }
        let calls = caller.finish(Duration::from_secs(60))?;
        let answered = callee.stop()?;
        for daemon in &mut cluster.daemons {
            daemon.process().must_run()?;
        }
        let moves = cluster.outcomes()?.since(&before);
        let dropped = moves.sum("slow_dropped_fragment") + moves.sum("fragment_over_peer");
        let peaks = peaks(&cluster)?;
        eprintln!("{} packets; calls {calls:?}, answered {answered:?}; {dropped} given up", packets.len());
        eprintln!("peak memory {peaks:?} KiB, before {memory:?} KiB");
        eprintln!("{moves:?}");
        ensure!(calls.successful == u64::from(CALLS_MADE.0), "calls failed: {calls:?}");
        ensure!(edges.iter().all(|edge| edge.count("stray_reply") == 0), "replies were stray");
        for (before, after) in memory.iter().zip(&peaks) {
            ensure!(*after < before + GROWTH_KIB, "a daemon grew from {before} to {after} KiB");
        }
        ensure!(dropped > 1000, "only {dropped} bad fragments were counted as given up");
        let may: Vec<&str> = CALLS.into_iter().chain(HELD).chain(ENDS).collect();
        moves.only("bad fragments", &["slow_dropped_fragment"], &may)?;
        cluster.stop()
    })
}

fn attack_of<'a>(cable: &'a Cable, packets: &'a [Vec<u8>]) -> impl Iterator<Item = (&'a Cable, &'a Vec<u8>)> {
    packets.iter().take(2000).map(move |packet| (cable, packet))
}

fn peaks(cluster: &Cluster) -> Result<Vec<u64>> {
    cluster.daemons.iter().map(tests::forwarder::Daemon::peak_memory_kib).collect()
}

/// Packets from somewhere to the shared address.
struct Attack {
    client: SocketAddr,
    service: SocketAddr,
    /// A whole UDP datagram with a SIP message.
    datagram: Vec<u8>,
}

impl Attack {
    fn new(family: Family) -> Self {
        // No host of the lab: what it does must not be held against the callers.
        let address = match family {
            Family::V4 => Ipv4Addr::new(198, 51, 100, 7).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x66, 0, 0, 0, 0, 7).into(),
        };
        let client = SocketAddr::new(address, 7777);
        let service = vip(family);
        let call = Sip { call_id: "bad@lab", cseq: 1, method: "OPTIONS", branch: "z9hG4bKbad", via: client };
        // A body that makes it some fragments long; the message has no Content-Length of its own that is right.
        let payload = [call.response("299 Bad"), vec![b'x'; 3000]].concat();
        Self { client, service, datagram: udp(client, service, &payload) }
    }

    fn part(&self, id: u16, offset: u16, more: bool, bytes: &[u8]) -> Vec<u8> {
        ip_packet(self.client.ip(), self.service.ip(), Some(Part { id, offset, more }), bytes)
    }

    fn bytes(&self, from: usize, to: usize) -> Result<&[u8]> {
        self.datagram.get(from..to).context("cut a datagram")
    }

    /// Overlapping, duplicate, tiny, empty, out of order, with two ends.
    fn contradictions(&self) -> Result<Vec<Vec<u8>>> {
        let mut packets = Vec::new();
        for round in 0..50 {
            let id = |number: u16| 1000 + round * 10 + number;
            // Overlaps by eight bytes, with other contents.
            packets.push(self.part(id(0), 0, true, self.bytes(0, 1400)?));
            packets.push(self.part(id(0), 1392, true, &[b'!'; 800]));
            packets.push(self.part(id(0), 2192, false, self.bytes(2192, 2800)?));
            // One inside another.
            packets.push(self.part(id(1), 0, true, self.bytes(0, 1400)?));
            packets.push(self.part(id(1), 400, true, &[0; 400]));
            // The same one, again and again.
            packets.extend((0..20).map(|_| self.part(id(2), 0, true, b"12345678")));
            // Eight bytes each, the last first.
            for offset in (0..1000).step_by(8).rev() {
                let from = usize::from(offset);
                packets.push(self.part(id(3), offset, offset < 992, self.bytes(from, from + 8)?));
            }
            // No bytes at all; a length that is no multiple of eight though more follow.
            packets.push(self.part(id(4), 0, true, b""));
            packets.push(self.part(id(5), 0, true, b"1234567"));
            // Two different ends.
            packets.push(self.part(id(6), 0, true, self.bytes(0, 800)?));
            packets.push(self.part(id(6), 1600, false, self.bytes(1600, 2000)?));
            packets.push(self.part(id(6), 800, false, self.bytes(800, 1000)?));
            // An end that cuts off what is already there.
            packets.push(self.part(id(7), 1600, true, self.bytes(1600, 2400)?));
            packets.push(self.part(id(7), 800, false, self.bytes(800, 900)?));
        }
        Ok(packets)
    }

    /// More and more of one datagram, to its largest offset and beyond the largest datagram.
    fn endless(&self) -> Vec<Vec<u8>> {
        let steps = (0..=65_528_u16).step_by(1400);
        steps.map(|offset| self.part(3000, offset & !7, true, &[b'e'; 1400])).collect()
    }

    /// Lengths that lie, in the UDP header of whole and of fragmented datagrams, and in the IP header.
    fn lies(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for (id, length) in (4000..).zip([0_u16, 7, 8, 100, 3000, u16::MAX]) {
            let mut datagram = self.datagram.clone();
            datagram.splice(4..6, length.to_be_bytes());
            let parts = (0..).step_by(1200).zip(datagram.chunks(1200));
            let last = datagram.len() / 1200 * 1200;
            packets.extend(parts.map(|(at, bytes)| self.part(id, at, usize::from(at) < last, bytes)));
        }
        let good = self.part(4100, 0, true, &[b'l'; 800]);
        let at = if self.client.is_ipv4() { 2 } else { 4 };
        for length in [0_u16, 19, 21, 60, 900, u16::MAX] {
            let mut packet = good.clone();
            packet.splice(at..at + 2, length.to_be_bytes());
            packets.push(packet);
        }
        // A header cut off in the middle, and one whose own length is impossible.
        packets.push(good.iter().copied().take(24).collect());
        let mut packet = good;
        packet.splice(0..1, [if self.client.is_ipv4() { 0x4f } else { 0x50 }]);
        packets.push(packet);
        packets
    }

    /// First, middle and last fragments of as many datagrams.
    fn unfinished(&self) -> Vec<Vec<u8>> {
        let bytes = self.datagram.get(..1400).unwrap_or_default();
        (0..UNFINISHED).map(|id| self.part(10_000 + id, id % 3 * 1400, id % 3 < 2, bytes)).collect()
    }
}
