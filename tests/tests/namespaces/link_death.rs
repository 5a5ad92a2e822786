//! An edge that can no longer be reached is down within two seconds, and up again when it returns.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::forwarder::Cluster;
use tests::lab::{Family, Lab, Spray};
use tests::traffic::{Endpoint, Sip, vip};

/// About one second is promised: an idle timeout of 1 s, and what polling and a busy machine add.
const SOON: Duration = Duration::from_millis(2500);

#[test]
fn a_dead_link_makes_its_peer_down_and_its_packets_local_v4() -> Result<()> {
    peer_goes_and_returns(Family::V4)
}

#[test]
fn a_dead_link_makes_its_peer_down_and_its_packets_local_v6() -> Result<()> {
    peer_goes_and_returns(Family::V6)
}

fn peer_goes_and_returns(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, family)?;
        let client = Endpoint::client(lab, family)?;
        let (lands, owner) = (Endpoint::proxy(lab, 1, family)?, Endpoint::proxy(lab, 3, family)?);
        let call = Sip { call_id: "cut@lab", cseq: 1, method: "INVITE", branch: "z9hG4bKc", via: client.address()? };
        owner.send(&call.response("180 Ringing"), client.address()?)?;
        client.receive()?;
        cluster.wait_for_owner(call.call_id, call.cseq, None, 3)?;
        lab.spray(&Spray::To(1))?;

        lab.router().cut_off(3)?;
        let cut = Instant::now();
        cluster.edge(1)?.wait_for_peers(1)?;
        cluster.edge(2)?.wait_for_peers(1)?;
        cluster.edge(3)?.wait_for_peers(0)?;
        ensure!(cut.elapsed() < SOON, "a peer without a link was down only after {:?}", cut.elapsed());
        let before = cluster.outcomes()?;
        client.send(&call.request(), vip(family))?;
        ensure!(lands.receive()?.0 == call.request(), "a packet of a lost owner is not local");
        cluster.outcomes()?.since(&before).exactly("owner down", &[&[("local_new", 1)], &[], &[]])?;

        lab.router().reconnect()?;
        for edge in 1..=3 {
            cluster.edge(edge)?.wait_for_peers(2)?;
        }
        let before = cluster.outcomes()?;
        client.send(&call.request(), vip(family))?;
        ensure!(owner.receive()?.0 == call.request(), "the claim of an owner that returned does not count");
        let counts: [&[_]; 3] = [&[("forwarded", 1)], &[], &[("decapsulated", 1)]];
        cluster.outcomes()?.since(&before).exactly("owner back", &counts)?;
        cluster.stop()
    })
}
