//! A call that crosses the edge twice: client, edge, core, edge, client, with one Call-ID and CSeq.

use anyhow::{Result, ensure};
use tests::forwarder::Cluster;
use tests::forwarder::outcomes::{CALLS, HELD};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Host, Lab, SIP, Spray};
use tests::load::{Load, run_load};
use tests::sipp::Kind;
use tests::traffic::{Endpoint, Sip, vip};

#[test]
fn a_call_that_crosses_the_edge_twice_works_v4() -> Result<()> {
    both_legs_work(Family::V4)
}

#[test]
fn a_call_that_crosses_the_edge_twice_works_v6() -> Result<()> {
    both_legs_work(Family::V6)
}

fn both_legs_work(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let core = Kamailio::core(lab)?;
        let mut cluster = Cluster::start(lab, family)?;
        let before = cluster.outcomes()?;
        let load = Load::of(&[Kind::Twice], 100, 20, family);
        let (report, _) = run_load(lab, "twice", &load, &edges, Some(&cluster))?;
        report.ensure_perfect(&load)?;
        // The second leg may be relayed before its edge knows that the first leg's edge owns the call.
        let races: Vec<&str> = HELD.into_iter().chain(["egress_foreign"]).collect();
        cluster.outcomes()?.since(&before).only("calls that cross twice", &CALLS, &races)?;
        ensure!(core.count("stray_reply") == 0, "the core had stray replies");
        let crossings = core.events().iter().filter(|event| event.word("method") == "INVITE").count();
        ensure!(crossings == 100, "{crossings} INVITEs went through the core, not 100");
        cluster.stop()
    })
}

#[test]
fn replies_of_two_legs_with_one_call_id_and_cseq_are_told_apart_by_branch_v4() -> Result<()> {
    branches_tell(Family::V4)
}

#[test]
fn replies_of_two_legs_with_one_call_id_and_cseq_are_told_apart_by_branch_v6() -> Result<()> {
    branches_tell(Family::V6)
}

fn branches_tell(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, family)?;
        let proxies = [Endpoint::proxy(lab, 1, family)?, Endpoint::proxy(lab, 2, family)?];
        let carrier = Endpoint::bind(lab, Host::Carrier, Host::Carrier.address(family), SIP)?;
        let call_id = "twice@lab";
        let leg = |branch| Sip { call_id, cseq: 1, method: "INVITE", branch, via: vip(family) };
        let legs = [leg("z9hG4bKfirst"), leg("z9hG4bKsecond")];
        // Each proxy relays the INVITE with a branch of its own; the first owns the call.
        for (edge, (proxy, leg)) in (1..).zip(proxies.iter().zip(&legs)) {
            proxy.send(&leg.request(), carrier.address()?)?;
            carrier.receive()?;
            cluster.wait_for_owner(call_id, 1, Some(leg.branch), edge)?;
            cluster.wait_for_owner(call_id, 1, None, 1)?;
        }
        // Everything lands on the third edge, which owns nothing.
        lab.spray(&Spray::To(3))?;
        let before = cluster.outcomes()?;
        for leg in [1, 0, 1] {
            let (Some(leg), Some(proxy), Some(other)) = (legs.get(leg), proxies.get(leg), proxies.get(1 - leg)) else {
                continue;
            };
            let reply = leg.response("180 Ringing");
            carrier.send(&reply, vip(family))?;
            let (got, from) = proxy.receive()?;
            ensure!(got == reply && from == carrier.address()?, "the reply was altered: from {from}");
            ensure!(other.is_empty()?, "the reply of {} reached the other leg's proxy", leg.branch);
        }
        let counts: [&[_]; 3] = [&[("decapsulated", 1)], &[("decapsulated", 2)], &[("forwarded", 3)]];
        cluster.outcomes()?.since(&before).exactly("replies of two legs", &counts)?;
        cluster.stop()
    })
}
