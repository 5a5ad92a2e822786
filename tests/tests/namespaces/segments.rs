//! Messages that the proxy sends in one packet of many segments (generic segmentation offload) are claimed, each of
//! them.

use anyhow::{Context as _, Result, ensure};
use tests::forwarder::Cluster;
use tests::lab::{Family, Host, Lab, SIP, Spray};
use tests::traffic::{Endpoint, Sip, padded_to, vip};

#[test]
fn messages_that_leave_in_one_packet_of_many_segments_are_claimed_v4() -> Result<()> {
    segments_are_claimed(Family::V4)
}

#[test]
fn messages_that_leave_in_one_packet_of_many_segments_are_claimed_v6() -> Result<()> {
    segments_are_claimed(Family::V6)
}

fn segments_are_claimed(family: Family) -> Result<()> {
    const SIZE: u16 = 700;
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, family)?;
        let carrier = Endpoint::bind(lab, Host::Carrier, Host::Carrier.address(family), SIP)?;
        let (lands, owner) = (Endpoint::proxy(lab, 1, family)?, Endpoint::proxy(lab, 2, family)?);
        lab.spray(&Spray::To(1))?;
        for offload in ["off", "on"] {
            lab.host(Host::Edge(2)).run("ethtool", &["-K", "eth0", "tx", offload])?;
            let names: Vec<(String, String)> =
                (0..5).map(|number| (format!("{offload}{number}@lab"), format!("z9hG4bK{number}"))).collect();
            let call = |(call_id, branch)| Sip { call_id, cseq: 1, method: "INVITE", branch, via: vip(family) };
            let calls: Vec<Sip<'_>> = names.iter().map(|(call_id, branch)| call((call_id, branch))).collect();
            let messages: Vec<Vec<u8>> =
                calls.iter().map(|call| padded_to(&call.request(), usize::from(SIZE))).collect();
            let before = cluster.edge(2)?.outcomes()?;
            owner.send_segments(&messages.concat(), SIZE, carrier.address()?)?;
            for message in &messages {
                let (got, _) = carrier.receive().context("wait for a segment")?;
                ensure!(got == *message, "a segment was altered");
            }
            for call in &calls {
                cluster.wait_for_owner(call.call_id, 1, Some(call.branch), 2)?;
                carrier.send(&call.response("180 Ringing"), vip(family))?;
                ensure!(owner.receive()?.0 == call.response("180 Ringing"), "an answer was altered");
            }
            ensure!(lands.is_empty()?, "an answer was stray");
            let moved = cluster.edge(2)?.outcomes()?.since(&before);
            moved.exactly("segments", &[("egress_punted", 1), ("decapsulated", 5)])?;
        }
        cluster.stop()
    })
}
