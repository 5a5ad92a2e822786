//! Requests that an edge's own proxy sends: their answers come back to it, wherever they land.

use anyhow::{Context as _, Result, ensure};
use tests::forwarder::Cluster;
use tests::kamailio::Kamailio;
use tests::lab::{EDGES, Family, Lab, Spray};
use tests::sipp::Sipp;

#[test]
fn an_edges_own_options_gets_its_answer_wherever_that_lands_v4() -> Result<()> {
    options_are_answered(Family::V4)
}

#[test]
fn an_edges_own_options_gets_its_answer_wherever_that_lands_v6() -> Result<()> {
    options_are_answered(Family::V6)
}

fn options_are_answered(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let _carrier = Sipp::options_carrier(lab, family)?;
        let mut cluster = Cluster::start(lab, family)?;
        for sender in 1..=EDGES {
            for lands in 1..=EDGES {
                options_from(lab, &edges, &cluster, family, (sender, lands))?;
            }
        }
        cluster.stop()
    })
}

/// One OPTIONS from one edge, with its answer pinned to an edge.
fn options_from(
    lab: &Lab,
    edges: &[Kamailio],
    cluster: &Cluster,
    family: Family,
    (sender, lands): (u8, u8),
) -> Result<()> {
    lab.spray(&Spray::To(lands))?;
    let seen = |edge: &Kamailio| edge.count("reply");
    let replies: Vec<u64> = edges.iter().map(seen).collect();
    let before = cluster.outcomes()?;
    let call_id = format!("options-{sender}-{lands}@lab");
    let own = edges.get(usize::from(sender) - 1).with_context(|| format!("find the proxy of edge {sender}"))?;
    own.send_options(family, &call_id)?;
    ensure!(own.wait_for_reply(&call_id)?, "the answer found no transaction at edge {sender}");
    let moves = cluster.outcomes()?.since(&before);
    for (number, (edge, before_replies)) in (1..).zip(edges.iter().zip(&replies)) {
        let at = u64::from(number == sender);
        ensure!(seen(edge) - before_replies == at, "the reply to edge {sender} was seen by the proxy of {number}");
        ensure!(edge.count("stray_reply") == 0, "edge {number} had a stray reply");
        let mut wanted: Vec<(&str, u64)> = Vec::new();
        if number == sender {
            let arrives = if lands == sender { "local_owner" } else { "decapsulated" };
            wanted.extend([("egress_claimed", 1), (arrives, 1)]);
        } else if number == lands {
            wanted.push(("forwarded", 1));
        }
        moves.at(number)?.exactly(&format!("OPTIONS from {sender}, answer at {lands}, edge {number}"), &wanted)?;
    }
    Ok(())
}
