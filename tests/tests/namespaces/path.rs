//! One packet's way through the tunnel, byte by byte.

use anyhow::{Context as _, Result, ensure};
use tests::capture::{Capture, checksums_are_right, tshark};
use tests::forwarder::{Cluster, TUNNEL_PORT, ensure_moved};
use tests::lab::{Family, Host, Lab, Spray};
use tests::poll::poll_until;
use tests::traffic::{Endpoint, Sip, vip};

#[test]
fn a_forwarded_packet_reaches_the_owner_as_the_client_sent_it_v4_in_v4() -> Result<()> {
    packet_is_unaltered(Family::V4, Family::V4)
}

#[test]
fn a_forwarded_packet_reaches_the_owner_as_the_client_sent_it_v4_in_v6() -> Result<()> {
    packet_is_unaltered(Family::V4, Family::V6)
}

#[test]
fn a_forwarded_packet_reaches_the_owner_as_the_client_sent_it_v6_in_v4() -> Result<()> {
    packet_is_unaltered(Family::V6, Family::V4)
}

#[test]
fn a_forwarded_packet_reaches_the_owner_as_the_client_sent_it_v6_in_v6() -> Result<()> {
    packet_is_unaltered(Family::V6, Family::V6)
}

fn packet_is_unaltered(service: Family, underlay: Family) -> Result<()> {
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, underlay)?;
        let client = Endpoint::client(lab, service)?;
        let (lands, owner) = (Endpoint::proxy(lab, 1, service)?, Endpoint::proxy(lab, 2, service)?);
        let call = Sip { call_id: "path@lab", cseq: 7, method: "INVITE", branch: "z9hG4bKp", via: client.address()? };

        // Edge 2 becomes the owner by answering.
        lab.spray(&Spray::To(2))?;
        client.send(&call.request(), vip(service))?;
        let (_, from) = owner.receive()?;
        owner.send(&call.response("100 Trying"), from)?;
        client.receive()?;
        cluster.wait_for_owner(call.call_id, call.cseq, None, 2)?;

        // The same INVITE again, now at edge 1.
        lab.spray(&Spray::To(1))?;
        let sip = "udp port 5060";
        let mut sent = Capture::cable(lab, Host::Edge(1), "sent", &format!("{sip} or udp port {TUNNEL_PORT}"))?;
        let mut arrived = Capture::arriving(lab, Host::Edge(2), "arrived", sip)?;
        let before = cluster.outcomes()?;
        client.send(&call.request(), vip(service))?;
        let (got, from) = owner.receive()?;
        ensure!(got == call.request(), "the payload was altered");
        ensure!(from == client.address()?, "the owner sees {from}, not the client");
        ensure!(lands.is_empty()?, "the proxy where it landed saw it too");
        let after = cluster.outcomes()?;
        let counts = [vec![("forwarded", 1)], vec![("decapsulated", 1)], vec![]];
        for ((before, after), wanted) in before.iter().zip(&after).zip(&counts) {
            ensure_moved("one packet", before, after, wanted)?;
        }
        captures_agree(&mut sent, &mut arrived, underlay)?;
        cluster.stop()
    })
}

/// What edge 2's stack got is what the router sent to edge 1, to the last byte; between them it was a Geneve packet.
fn captures_agree(sent: &mut Capture, arrived: &mut Capture, underlay: Family) -> Result<()> {
    let arrival = poll_until("the packet is in the capture at the owner", std::time::Duration::from_secs(5), || {
        Ok(arrived.packets()?.into_iter().next())
    })?;
    poll_until("packet and tunnel packet are in the router's capture", std::time::Duration::from_secs(5), || {
        Ok((sent.packets()?.len() >= 2).then_some(()))
    })?;
    sent.stop()?;
    arrived.stop()?;
    let packets = sent.packets()?;
    let first = packets.first().context("find the packet that the router sent")?;
    ensure!(*first == arrival, "the inner packet was altered:\n{first:02x?}\n{arrival:02x?}");
    let source = match underlay {
        Family::V4 => "ip.src",
        Family::V6 => "ipv6.src",
    };
    let decoded = tshark(sent.file(), "geneve && sip", &[source, "udp.dstport", "sip.Call-ID", "geneve.vni"])?;
    let [line] = decoded.as_slice() else { anyhow::bail!("tshark decodes {} Geneve packets", decoded.len()) };
    let text = line.join(" ");
    let outer = Host::Edge(1).address(underlay).to_string();
    ensure!(text.contains(&outer) && text.contains("6081") && text.contains("path@lab"), "tshark reads: {text}");
    checksums_are_right(sent.file())?;
    checksums_are_right(arrived.file())
}
