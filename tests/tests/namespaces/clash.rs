//! Two edges claim one transaction before either has heard of the other: the earlier has it, on every edge.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::forwarder::{CLUSTER_PORT, Cluster};
use tests::lab::delay::Delay;
use tests::lab::{Family, Lab, Spray};
use tests::traffic::{Endpoint, Sip, vip};

/// How long a claim takes to the peers: much longer than both claims.
const APART: Duration = Duration::from_millis(300);

#[test]
fn of_two_claims_at_once_the_earlier_is_effective_everywhere_v4() -> Result<()> {
    the_earlier_is_effective(Family::V4)
}

#[test]
fn of_two_claims_at_once_the_earlier_is_effective_everywhere_v6() -> Result<()> {
    the_earlier_is_effective(Family::V6)
}

fn the_earlier_is_effective(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, family)?;
        let client = Endpoint::client(lab, family)?;
        let proxies = [Endpoint::proxy(lab, 1, family)?, Endpoint::proxy(lab, 2, family)?];
        let delay = Delay::start(lab.router(), CLUSTER_PORT, APART)?;
        for (first, second) in [(1, 2), (2, 1)] {
            let call_id = format!("clash{first}@lab");
            let call = Sip { call_id: &call_id, cseq: 1, method: "INVITE", branch: "z9hG4bKc", via: client.address()? };
            let outcomes = cluster.outcomes()?;
            // Both proxies answer, as where one request has reached both.
            for edge in [first, second] {
                let proxy = proxies.get(usize::from(edge) - 1).context("find a proxy")?;
                proxy.send(&call.response("100 Trying"), client.address()?)?;
                client.receive()?;
                let own = cluster.edge(edge)?.owner(&call_id, 1, None)?;
                ensure!(own == Some(u64::from(edge)), "edge {edge} had heard of the other: it names {own:?}");
            }
            cluster.wait_for_owner(&call_id, 1, None, first)?;
            // What lands on the one that lost goes to the one that won.
            lab.spray(&Spray::To(second))?;
            client.send(&call.request(), vip(family))?;
            let winner = proxies.get(usize::from(first) - 1).context("find a proxy")?;
            ensure!(winner.receive()?.0 == call.request(), "the request did not reach the winner");
            let moves = cluster.outcomes()?.since(&outcomes);
            let (won, lost) = (moves.at(first)?, moves.at(second)?);
            won.exactly("the earlier claim", &[("egress_claimed", 1), ("decapsulated", 1)])?;
            lost.exactly("the later claim", &[("egress_claimed", 1), ("forwarded", 1)])?;
            moves.at(3)?.exactly("the edge without a claim", &[])?;
        }
        drop(delay);
        cluster.stop()
    })
}
