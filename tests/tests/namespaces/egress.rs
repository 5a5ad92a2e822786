//! What the proxy sends is claimed in whatever shape it leaves: as fragments, or with its checksum still to come.

use anyhow::{Context as _, Result, ensure};
use tests::forwarder::Cluster;
use tests::forwarder::outcomes::{CALLS, HELD};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Host, Lab, SIP, Spray};
use tests::load::{Load, ensure_one_edge_answers, ensure_one_edge_each, run_load};
use tests::traffic::{Endpoint, Sip, padded_to, vip};

#[test]
fn messages_that_leave_as_fragments_are_claimed_v4() -> Result<()> {
    fragments_are_claimed(Family::V4, padded_to)
}

#[test]
fn messages_that_leave_as_fragments_are_claimed_v6() -> Result<()> {
    fragments_are_claimed(Family::V6, padded_to)
}

/// `padded` makes a message so many bytes long.
pub(crate) fn fragments_are_claimed(family: Family, padded: fn(&[u8], usize) -> Vec<u8>) -> Result<()> {
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, family)?;
        let carrier = Endpoint::bind(lab, Host::Carrier, Host::Carrier.address(family), SIP)?;
        let (lands, owner) = (Endpoint::proxy(lab, 1, family)?, Endpoint::proxy(lab, 2, family)?);
        lab.spray(&Spray::To(1))?;
        for (number, size) in [(0, 3000), (1, 20_000)] {
            let (call_id, branch) = (format!("large{number}@lab"), format!("z9hG4bK{number}"));
            let call = Sip { call_id: &call_id, cseq: 1, method: "INVITE", branch: &branch, via: vip(family) };
            let message = padded(&call.request(), size);
            let what = format!("{size} bytes");
            owner.send(&message, carrier.address()?)?;
            ensure!(carrier.receive()?.0 == message, "{what} were altered");
            carrier.send(&call.response("180 Ringing"), vip(family))?;
            let (got, _) = owner.receive().with_context(|| format!("wait for the answer to {what}"))?;
            ensure!(got == call.response("180 Ringing"), "the answer to {what} was altered");
            cluster.wait_for_owner(&call_id, 1, Some(&branch), 2).with_context(|| format!("claim {what}"))?;
            ensure!(lands.is_empty()?, "the answer to {what} was stray");
        }
        cluster.stop()
    })
}

#[test]
fn calls_work_where_edges_leave_checksums_to_the_network_card_v4() -> Result<()> {
    offload_harms_nothing(Family::V4)
}

#[test]
fn calls_work_where_edges_leave_checksums_to_the_network_card_v6() -> Result<()> {
    offload_harms_nothing(Family::V6)
}

fn offload_harms_nothing(family: Family) -> Result<()> {
    Lab::run(|lab| {
        for edge in lab.edges() {
            lab.host(Host::Edge(edge)).run("ethtool", &["-K", "eth0", "tx", "on"])?;
        }
        let edges = Kamailio::edges(lab, true)?;
        let mut cluster = Cluster::start(lab, family)?;
        let before = cluster.outcomes()?;
        let load = Load { count: 80, ..Load::usual(family) };
        let (report, datagrams) = run_load(lab, "offload", &load, &edges, Some(&cluster))?;
        report.ensure_perfect(&load)?;
        ensure_one_edge_each(&edges)?;
        ensure_one_edge_answers(&datagrams, family)?;
        cluster.outcomes()?.since(&before).only("calls with checksum offload", &CALLS, &HELD)?;
        cluster.stop()
    })
}
