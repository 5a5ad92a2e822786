//! Two edges claim one transaction before either has heard of the other: one of them has it, on every edge.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::forwarder::{CLUSTER_PORT, Cluster};
use tests::lab::delay::Delay;
use tests::lab::{Family, Lab, Spray};
use tests::poll::poll_until_true;
use tests::traffic::{Endpoint, Sip, vip};

/// How long a claim takes to the peers: much longer than both claims.
const APART: Duration = Duration::from_millis(300);

#[test]
fn of_two_claims_at_once_one_is_effective_everywhere_v4() -> Result<()> {
    one_is_effective(Family::V4)
}

#[test]
fn of_two_claims_at_once_one_is_effective_everywhere_v6() -> Result<()> {
    one_is_effective(Family::V6)
}

fn one_is_effective(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, family)?;
        let client = Endpoint::client(lab, family)?;
        let proxies = [Endpoint::proxy(lab, 1, family)?, Endpoint::proxy(lab, 2, family)?];
        let delay = Delay::start(lab.router(), CLUSTER_PORT, APART)?;
        for (first, second) in [(1_u8, 2_u8), (2, 1)] {
            let call_id = format!("clash{first}@lab");
            let call = Sip { call_id: &call_id, cseq: 1, method: "INVITE", branch: "z9hG4bKc", via: client.address()? };
            let outcomes = cluster.outcomes()?;
            // Both proxies answer, as where one request has reached both; neither edge has heard of the other's claim,
            // or its own would not be counted below.
            for edge in [first, second] {
                let proxy = proxies.get(usize::from(edge) - 1).context("find a proxy")?;
                proxy.send(&call.response("100 Trying"), client.address()?)?;
                client.receive()?;
            }
            let winner = settled(&cluster, &call_id)?;
            // How old its own claim is decides whether an edge goes by time or by id: the earlier one of the lower id
            // has both on its side.
            ensure!(winner == 1 || (first, winner) == (2, 2), "of {first} and {second}, {winner} has it");
            // What lands on the one that lost goes to the one that won.
            let loser = 3 - winner;
            lab.spray(&Spray::To(loser))?;
            client.send(&call.request(), vip(family))?;
            let proxy = proxies.get(usize::from(winner) - 1).context("find a proxy")?;
            ensure!(proxy.receive()?.0 == call.request(), "the request did not reach the winner");
            let moves = cluster.outcomes()?.since(&outcomes);
            let (won, lost) = (moves.at(winner)?, moves.at(loser)?);
            won.exactly("the claim that counts", &[("egress_claimed", 1), ("decapsulated", 1)])?;
            lost.exactly("the claim that was withdrawn", &[("egress_claimed", 1), ("forwarded", 1)])?;
            moves.at(3)?.exactly("the edge without a claim", &[])?;
        }
        drop(delay);
        cluster.stop()
    })
}

/// The edge that all edges name as the owner, in the end.
fn settled(cluster: &Cluster, call_id: &str) -> Result<u8> {
    let mut named = Vec::new();
    poll_until_true("all edges name one owner", Duration::from_secs(10), || {
        named = cluster.daemons.iter().map(|daemon| daemon.owner(call_id, 1, None)).collect::<Result<_>>()?;
        Ok(named.first().is_some_and(|first: &Option<u64>| first.is_some() && named.iter().all(|other| other == first)))
    })?;
    let owner = named.first().copied().flatten().context("find the owner")?;
    Ok(u8::try_from(owner)?)
}
