//! A daemon that is stopped in order: its node still gets what it owns for a while, and then counts as down.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::forwarder::Cluster;
use tests::lab::{Family, Lab, Spray};
use tests::poll::poll_until_true;
use tests::traffic::{Endpoint, Sip, vip};

#[test]
fn a_node_whose_daemon_was_stopped_still_gets_what_it_owns_v4() -> Result<()> {
    still_gets_what_it_owns(Family::V4)
}

#[test]
fn a_node_whose_daemon_was_stopped_still_gets_what_it_owns_v6() -> Result<()> {
    still_gets_what_it_owns(Family::V6)
}

fn still_gets_what_it_owns(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, family)?;
        let client = Endpoint::client(lab, family)?;
        let (lands, owner) = (Endpoint::proxy(lab, 1, family)?, Endpoint::proxy(lab, 2, family)?);
        let call = Sip { call_id: "left@lab", cseq: 1, method: "INVITE", branch: "z9hG4bKl", via: client.address()? };
        owner.send(&call.response("100 Trying"), client.address()?)?;
        client.receive()?;
        cluster.wait_for_owner(call.call_id, 1, None, 2)?;
        lab.spray(&Spray::To(1))?;

        let status = cluster.edge(2)?.process().stop()?;
        ensure!(status.code() == Some(0), "the daemon of edge 2 ended with {status} after SIGTERM");
        let before = cluster.edge(1)?.outcomes()?;
        client.send(&call.request(), vip(family))?;
        let (got, _) = owner.receive().context("wait for the message at its owner, whose daemon was stopped")?;
        ensure!(got == call.request(), "the message was altered");
        let moved = cluster.edge(1)?.outcomes()?.since(&before);
        moved.exactly("a message to a node that leaves", &[("forwarded", 1)])?;

        // Once it has not come back, the next message is the node's that it lands on.
        poll_until_true("edge 1 counts node 2 as down", Duration::from_secs(90), || {
            Ok(cluster.edge(1)?.owner(call.call_id, 1, None)?.is_none())
        })?;
        let before = cluster.edge(1)?.outcomes()?;
        client.send(&call.request(), vip(family))?;
        let (got, _) = lands.receive().context("wait for the message where it landed")?;
        ensure!(got == call.request() && owner.is_empty()?, "the message did not stay where it landed");
        let moved = cluster.edge(1)?.outcomes()?.since(&before);
        moved.exactly("a message to a node that has left", &[("local_new", 1)])?;
        Ok(())
    })
}
