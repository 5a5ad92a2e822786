//! Retransmissions: each copy lands on a random edge, and only the owner's proxy ever sees one.

use anyhow::{Result, ensure};
use tests::forwarder::Cluster;
use tests::forwarder::outcomes::{CALLS, HELD};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Lab};
use tests::load::{Load, ensure_one_edge_answers, ensure_one_edge_each, run_load};
use tests::sipp::Kind;

#[test]
fn a_message_answered_late_is_seen_by_one_proxy_only_v4() -> Result<()> {
    one_proxy_sees(Kind::Late, true, Family::V4)
}

#[test]
fn a_message_answered_late_is_seen_by_one_proxy_only_v6() -> Result<()> {
    one_proxy_sees(Kind::Late, true, Family::V6)
}

#[test]
fn an_invite_without_100_is_seen_by_one_proxy_only_v4() -> Result<()> {
    one_proxy_sees(Kind::Silent, false, Family::V4)
}

#[test]
fn an_invite_without_100_is_seen_by_one_proxy_only_v6() -> Result<()> {
    one_proxy_sees(Kind::Silent, false, Family::V6)
}

/// `answers_at_once` is whether the proxies send 100 to an INVITE.
fn one_proxy_sees(kind: Kind, answers_at_once: bool, family: Family) -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, answers_at_once)?;
        let mut cluster = Cluster::start(lab, family)?;
        let before = cluster.outcomes()?;
        let load = Load::of(&[kind], 60, 30, family);
        let (report, datagrams) = run_load(lab, "late", &load, &edges, Some(&cluster))?;
        report.ensure_perfect(&load)?;
        // No ACK and no CANCEL belongs to a MESSAGE.
        let must: Vec<&str> =
            CALLS.into_iter().filter(|name| kind == Kind::Silent || *name != "egress_no_claim").collect();
        cluster.outcomes()?.since(&before).only("late answers", &must, &HELD)?;
        ensure_one_edge_each(&edges)?;
        ensure_one_edge_answers(&datagrams, family)?;
        let repeated: u64 = edges.iter().map(Kamailio::repeated).sum();
        ensure!(repeated >= u64::from(load.count), "each request should come again at least once: {repeated} did");
        ensure!(report.forwarded > 0, "no copy was forwarded: {report:?}");
        cluster.stop()
    })
}
