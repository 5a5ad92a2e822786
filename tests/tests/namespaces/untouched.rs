//! Traffic that is not SIP for a service passes byte for byte, both ways, on hosts with the forwarder.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::capture::{Capture, checksums_are_right};
use tests::forwarder::Cluster;
use tests::lab::{Family, Host, Lab, SIP, Spray};
use tests::poll::poll_until_true;
use tests::traffic::Endpoint;

/// Bytes sent over TCP in each direction: several windows.
const STREAM: usize = 400_000;
/// What both captures see: no neighbour discovery, no TCP (segments are cut anew on the way), not the daemons' own
/// talk.
const FILTER: &str = "(udp and not port 7470) or icmp[icmptype] == 8 or icmp[icmptype] == 0 or \
                      icmp6[icmp6type] == 128 or icmp6[icmp6type] == 129";

#[test]
fn what_is_not_sip_for_a_service_is_untouched_v4() -> Result<()> {
    passes_untouched(Family::V4)
}

#[test]
fn what_is_not_sip_for_a_service_is_untouched_v6() -> Result<()> {
    passes_untouched(Family::V6)
}

fn passes_untouched(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, family)?;
        lab.spray(&Spray::To(1))?;
        let mut outside = Capture::cable(lab, Host::Edge(1), "outside", FILTER)?;
        let mut inside = Capture::inside(lab, Host::Edge(1), "inside", FILTER)?;
        let before = cluster.edge(1)?.outcomes()?;
        let datagrams = datagrams_pass(lab, family)?;
        pings_pass(lab, family)?;
        let moved = cluster.edge(1)?.outcomes()?.since(&before);
        moved.exactly("other traffic", &[("not_sip", 2), ("keep_alive", 2)])?;
        tcp_passes(lab, family)?;
        // Each datagram and each ping, there and back.
        let wanted = 2 * (datagrams + 3);
        for capture in [&outside, &inside] {
            let what = format!("{wanted} packets are in {}", capture.file().display());
            poll_until_true(&what, Duration::from_secs(5), || Ok(capture.packets()?.len() >= wanted))?;
        }
        outside.stop()?;
        inside.stop()?;
        let (mut there, mut here) = (outside.packets()?, inside.packets()?);
        there.sort();
        here.sort();
        ensure!(there.len() == wanted, "{} packets were captured, not {wanted}", there.len());
        ensure!(there == here, "packets differ on both sides of the forwarder; see the captures");
        checksums_are_right(outside.file())?;
        checksums_are_right(inside.file())?;
        cluster.stop()
    })
}

/// Sends datagrams of many kinds and has each echoed; returns how many.
fn datagrams_pass(lab: &Lab, family: Family) -> Result<usize> {
    let vip = family.vip();
    let underlay = Host::Edge(1).address(family);
    let mut rtp = b"\x80\x00\x12\x34\x00\x00\x10\x00\xde\xad\xbe\xef".to_vec();
    rtp.resize(172, 0xd5);
    let dns = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01".to_vec();
    let sip = b"INVITE sip:a@b SIP/2.0\r\nCall-ID: other\r\nCSeq: 1 INVITE\r\n\r\n".to_vec();
    let stun = b"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl".to_vec();
    let mut count = 0;
    let cases = [
        (vip, 20_000, vec![rtp.clone(), rtp]),
        (vip, 53, vec![dns]),
        (vip, 5061, vec![sip.clone()]),
        (underlay, SIP, vec![sip]),
        (underlay, 9999, vec![vec![0xa5; 1400], Vec::new()]),
        (vip, SIP, vec![stun.clone(), b"\r\n\r\n".to_vec(), Vec::new(), stun]),
    ];
    for (address, port, payloads) in cases {
        let edge = Endpoint::bind(lab, Host::Edge(1), address, port)?;
        let client = Endpoint::bind(lab, Host::Client, Host::Client.address(family), 0)?;
        for payload in payloads {
            client.send(&payload, SocketAddr::new(address, port))?;
            let (got, from) = edge.receive()?;
            ensure!(got == payload && from == client.address()?, "a datagram to {address} port {port} was altered");
            edge.send(&got, from)?;
            let (back, from) = client.receive()?;
            ensure!(back == payload && from == edge.address()?, "a datagram from {address} port {port} was altered");
            count += 1;
        }
    }
    Ok(count)
}

fn pings_pass(lab: &Lab, family: Family) -> Result<()> {
    let vip = family.vip().to_string();
    lab.host(Host::Client).run("ping", &["-n", "-c", "3", "-i", "0.05", "-s", "1000", "-W", "2", &vip]).map(drop)
}

/// SIP's port over TCP, with more bytes than a window holds, echoed.
fn tcp_passes(lab: &Lab, family: Family) -> Result<()> {
    let at = SocketAddr::new(family.vip(), SIP);
    let listener = lab.host(Host::Edge(1)).within(|| TcpListener::bind(at).context("listen"))?;
    let client = lab.host(Host::Client).within(|| TcpStream::connect(at).context("connect"))?;
    let (mut server, from) = listener.accept().context("accept a connection")?;
    ensure!(from == client.local_addr()?, "the server sees {from}");
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(Duration::from_secs(5))).context("set a time limit")?;
        stream.set_write_timeout(Some(Duration::from_secs(5))).context("set a time limit")?;
    }
    let sent: Vec<u8> = b"INVITE sip:a@b SIP/2.0\r\n".iter().copied().cycle().take(STREAM).collect();
    let mut got = vec![0; STREAM];
    let mut back = vec![0; STREAM];
    std::thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| (&client).write_all(&sent));
        server.read_exact(&mut got).context("read at the edge")?;
        ensure!(matches!(writer.join(), Ok(Ok(()))), "the client cannot write");
        let reader = scope.spawn(|| (&client).read_exact(&mut back));
        server.write_all(&got).context("write at the edge")?;
        ensure!(matches!(reader.join(), Ok(Ok(()))), "the client cannot read");
        Ok(())
    })?;
    ensure!(got == sent && back == sent, "a TCP stream was altered");
    Ok(())
}
