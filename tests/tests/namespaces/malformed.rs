//! Packets that are not what they seem: each passes, and is counted once under its name.

use anyhow::{Result, ensure};
use tests::forwarder::Cluster;
use tests::lab::{Family, Host, Lab, SIP, Spray};
use tests::poll::poll_until_true;
use tests::traffic::{Endpoint, Sip, send_raw_udp, vip};

#[test]
fn odd_payloads_pass_unaltered_and_are_counted_v4() -> Result<()> {
    odd_payloads_pass(Family::V4)
}

#[test]
fn odd_payloads_pass_unaltered_and_are_counted_v6() -> Result<()> {
    odd_payloads_pass(Family::V6)
}

fn odd_payloads_pass(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, family)?;
        lab.spray(&Spray::To(1))?;
        let (client, proxy) = (Endpoint::client(lab, family)?, Endpoint::proxy(lab, 1, family)?);
        let good = Sip { call_id: "odd@lab", cseq: 1, method: "INVITE", branch: "z9hG4bKo", via: client.address()? };
        let text = String::from_utf8_lossy(&good.request()).into_owned();
        let without = |header: &str| -> Vec<u8> {
            text.split_inclusive("\r\n").filter(|line| !line.starts_with(header)).collect::<String>().into_bytes()
        };
        // What the daemon reads to its end, and then finds to be no SIP, or to have no key.
        const NO_SIP: &[&str] = &["punted_unread", "slow_not_sip"];
        const KEYLESS: &[&str] = &["punted_unread", "slow_local"];
        let cases: [(&str, Vec<u8>, &[&str]); 10] = [
            ("an empty datagram", Vec::new(), &["keep_alive"]),
            ("a CRLF keep-alive", b"\r\n\r\n".to_vec(), &["keep_alive"]),
            ("a STUN request", b"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl".to_vec(), &["not_sip"]),
            // It could be a request until its headers turn out to lack what a key needs.
            ("HTTP", b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec(), NO_SIP),
            // Blanks and zeros may stand before a message.
            ("binary zeros", vec![0; 300], NO_SIP),
            ("RTP", vec![0x80; 172], &["not_sip"]),
            ("an INVITE without Call-ID", without("Call-ID"), KEYLESS),
            ("an INVITE without CSeq", without("CSeq"), KEYLESS),
            ("an INVITE cut off in its headers", text.as_bytes().iter().copied().take(60).collect(), KEYLESS),
            ("a good INVITE", good.request(), &["local_new"]),
        ];
        for (what, payload, outcomes) in cases {
            let before = cluster.edge(1)?.outcomes()?;
            client.send(&payload, vip(family))?;
            ensure!(proxy.receive()?.0 == payload, "{what} was altered");
            let wanted: Vec<(&str, u64)> = outcomes.iter().map(|outcome| (*outcome, 1)).collect();
            cluster.edge(1)?.outcomes()?.since(&before).exactly(what, &wanted)?;
        }
        cluster.stop()
    })
}

#[test]
fn lengths_that_lie_are_counted_and_harm_nothing_v4() -> Result<()> {
    lying_lengths_harm_nothing(Family::V4)
}

#[test]
fn lengths_that_lie_are_counted_and_harm_nothing_v6() -> Result<()> {
    lying_lengths_harm_nothing(Family::V6)
}

fn lying_lengths_harm_nothing(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, family)?;
        lab.spray(&Spray::To(1))?;
        let (client, proxy) = (Endpoint::client(lab, family)?, Endpoint::proxy(lab, 1, family)?);
        let call = Sip { call_id: "lie@lab", cseq: 1, method: "INVITE", branch: "z9hG4bKl", via: client.address()? };
        let payload = call.request();
        // More than there is, less than a UDP header, and a length that cuts nothing off but is not there at all.
        for length in [u16::try_from(payload.len() + 500)?, 7, 3] {
            let mut segment = Vec::new();
            for word in [SIP, SIP, length, 0] {
                segment.extend(word.to_be_bytes());
            }
            segment.extend(&payload);
            let before = cluster.edge(1)?.outcomes()?;
            send_raw_udp(lab, Host::Client, family, family.vip(), &segment)?;
            let what = format!("a UDP length of {length}");
            poll_until_true(&what, std::time::Duration::from_secs(3), || {
                Ok(cluster.edge(1)?.outcomes()?.of("malformed") > before.of("malformed"))
            })?;
            cluster.edge(1)?.outcomes()?.since(&before).exactly(&what, &[("malformed", 1)])?;
        }
        client.send(&payload, vip(family))?;
        ensure!(proxy.receive()?.0 == payload, "a good packet no longer passes");
        cluster.stop()
    })
}
