//! One packet's way through the tunnel, byte by byte.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tests::capture::{Capture, checksums_are_right, tshark};
use tests::forwarder::{Cluster, Site, TUNNEL_PORT};
use tests::lab::{Family, Host, Lab, Spray};
use tests::poll::poll_until_true;
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

#[test]
fn generic_xdp_forwards_as_native_does_v4() -> Result<()> {
    packet_is_unaltered(Family::V4, Site { xdp_mode: "generic", ..Family::V4.into() })
}

#[test]
fn generic_xdp_forwards_as_native_does_v6() -> Result<()> {
    packet_is_unaltered(Family::V6, Site { xdp_mode: "generic", ..Family::V6.into() })
}

#[test]
fn an_underlay_on_another_interface_is_reached_v4() -> Result<()> {
    packet_is_unaltered(Family::V4, Site { backbone: true, ..Family::V4.into() })
}

#[test]
fn an_underlay_on_another_interface_is_reached_v6() -> Result<()> {
    packet_is_unaltered(Family::V6, Site { backbone: true, ..Family::V6.into() })
}

#[test]
fn an_underlay_on_another_interface_is_reached_with_generic_xdp() -> Result<()> {
    packet_is_unaltered(Family::V4, Site { backbone: true, xdp_mode: "generic", family: Family::V6 })
}

fn packet_is_unaltered(service: Family, site: impl Into<Site>) -> Result<()> {
    let site = site.into();
    Lab::run(|lab| {
        if site.backbone {
            lab.wiring().add_backbone()?;
        }
        let mut cluster = Cluster::start(lab, site)?;
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
        let inside = if site.backbone { "eth1" } else { "eth0" };
        let mut sent = Capture::cable(lab, Host::Edge(1), "sent", sip)?;
        let mut tunnel = Capture::router(lab, "tunnel", &format!("udp port {TUNNEL_PORT}"))?;
        let mut arrived = Capture::arriving(lab, Host::Edge(2), inside, "arrived", sip)?;
        let before = cluster.outcomes()?;
        client.send(&call.request(), vip(service))?;
        let (got, from) = owner.receive()?;
        ensure!(got == call.request(), "the payload was altered");
        ensure!(from == client.address()?, "the owner sees {from}, not the client");
        ensure!(lands.is_empty()?, "the proxy where it landed saw it too");
        let counts: [&[_]; 3] = [&[("forwarded", 1)], &[("decapsulated", 1)], &[]];
        cluster.outcomes()?.since(&before).exactly("one packet", &counts)?;
        captures_agree([&mut sent, &mut tunnel, &mut arrived], site)?;
        cluster.stop()
    })
}

/// What edge 2's stack got is what the router sent to edge 1, to the last byte; between them it was a Geneve packet.
fn captures_agree([sent, tunnel, arrived]: [&mut Capture; 3], site: Site) -> Result<()> {
    for capture in [&mut *sent, &mut *tunnel, &mut *arrived] {
        let what = format!("the packet is in {}", capture.file().display());
        poll_until_true(&what, Duration::from_secs(5), || Ok(!capture.packets()?.is_empty()))?;
        capture.stop()?;
    }
    let (before, after) = (sent.packets()?, arrived.packets()?);
    ensure!(before.len() == 1 && before == after, "the inner packet was altered:\n{before:02x?}\n{after:02x?}");
    // Decapsulation comes before taps: sngrep, tcpdump and HEP agents at the owner see plain SIP.
    let tapped = tshark(arrived.file(), "sip && !geneve", &["sip.Call-ID"])?;
    ensure!(tapped == [["path@lab"]], "a tap at the owner shows {tapped:?}");
    let source = match site.family {
        Family::V4 => "ip.src",
        Family::V6 => "ipv6.src",
    };
    let decoded = tshark(tunnel.file(), "geneve && sip", &[source, "udp.dstport", "sip.Call-ID", "geneve.vni"])?;
    let [line] = decoded.as_slice() else { bail!("tshark decodes {} Geneve packets", decoded.len()) };
    let text = line.join(" ");
    let outer = site.address(1).to_string();
    ensure!(text.contains(&outer) && text.contains("6081") && text.contains("path@lab"), "tshark reads: {text}");
    [sent, tunnel, arrived].into_iter().try_for_each(|capture| checksums_are_right(capture.file()))
}
