//! An edge that dies, or only its proxy: what was in flight there is lost, and nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::calls::{Call, calls, tally};
use tests::capture::Capture;
use tests::clock::now_us;
use tests::forwarder::Cluster;
use tests::forwarder::outcomes::{CALLS, CLAIMS_LATE, HELD};
use tests::kamailio::Kamailio;
use tests::lab::{Family, Lab, Spray};
use tests::poll::poll_until_true;
use tests::sipp::{Kind, Shape, Sipp};

use crate::restarts::RATE;

/// From then on, after a death, every new call completes; in microseconds.
const SOON_US: u64 = 1_500_000;
/// A proxy without a socket is seen at once, one that is silent after two probes; the rest is a busy machine's.
const SEEN: Duration = Duration::from_millis(1500);
/// Until the last call has ended, well or not.
const TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn a_dead_edge_costs_only_what_was_in_flight_there_v4() -> Result<()> {
    edge_dies(Family::V4, true)
}

#[test]
fn a_dead_edge_costs_only_what_was_in_flight_there_though_packets_still_go_there_v6() -> Result<()> {
    edge_dies(Family::V6, false)
}

/// `withdrawn` is whether the router stops sending packets to the dead edge in the same moment.
fn edge_dies(family: Family, withdrawn: bool) -> Result<()> {
    Lab::run(|lab| {
        let mut edges = Kamailio::edges(lab, true)?;
        let mut cluster = Cluster::start_with(lab, family, tests::forwarder::Config::probed)?;
        let outcomes = cluster.outcomes_of(&[2, 3])?;
        let mut capture = Capture::router(lab, "failover", "udp and not port 7470")?;
        let mut callee = Sipp::callee(lab, Kind::Call, family, Shape::default())?;
        let mut caller = Sipp::caller(lab, Kind::Call, family, (10 * RATE, RATE), Shape::default())?;
        poll_until_true("calls go on", Duration::from_secs(20), || Ok(caller.begun() >= u64::from(RATE) * 4))?;
        let killed = now_us()?;
        edges.first_mut().context("find the proxy of edge 1")?.kill()?;
        cluster.edge(1)?.kill()?;
        if withdrawn {
            lab.spray(&Spray::Over(vec![2, 3]))?;
        }
        let counts = caller.finish(TIMEOUT)?;
        callee.stop()?;
        capture.stop()?;
        let datagrams = capture.datagrams()?;
        let tallies = tally(&datagrams, family, [killed, killed + SOON_US]);
        eprintln!("edge dead, route withdrawn: {withdrawn}; before, then, from 1.5 s on: {tallies:?}; {counts:?}");
        for call in calls(&datagrams, family).iter().filter(|call| !call.completed && call.begun < killed) {
            // Where packets still go to the dead edge, a later message of a call may do so before its programs give
            // way.
            ensure!(!withdrawn || was_in_flight(call, killed, &edges), "{} was lost: {call:?}", call.id);
        }
        let last = tallies.last().context("find the calls after the death")?;
        ensure!(last.lost() == 0, "calls that began long after the death were lost: {tallies:?}");
        ensure!(last.begun > 100, "the death was not in the middle: {tallies:?}");
        let moves = cluster.outcomes_of(&[2, 3])?.since(&outcomes);
        eprintln!("{moves:?}");
        // The dead edge's programs go on where packets still come, and relay what needs a daemon.
        let relayed = ["decap_punted_relayed"];
        let (must, may) = if withdrawn { (&[][..], &relayed[..]) } else { (&relayed[..], &[][..]) };
        moves.only("an edge's death", &[&CALLS[..], must].concat(), &[&HELD[..], &CLAIMS_LATE, may].concat())
    })
}

/// Whether the proxy of edge 1 had the transaction that a call was in at some time.
fn was_in_flight(call: &Call, at: u64, edges: &[Kamailio]) -> bool {
    let last = call.requests.iter().filter(|(sent, _)| *sent <= at).max();
    let number = last.map(|(_, number)| number.to_string()).unwrap_or_default();
    let has = |edge: &Kamailio| {
        edge.events().iter().any(|event| event.word("callid") == call.id && event.word("cseq") == number)
    };
    edges.first().is_some_and(has)
}

#[test]
fn a_proxy_that_dies_leaves_new_calls_to_its_peers_until_it_is_back_v4() -> Result<()> {
    proxy_dies(Family::V4)
}

#[test]
fn a_proxy_that_dies_leaves_new_calls_to_its_peers_until_it_is_back_v6() -> Result<()> {
    proxy_dies(Family::V6)
}

fn proxy_dies(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let mut edges = Kamailio::edges(lab, true)?;
        let mut cluster = Cluster::start_with(lab, family, tests::forwarder::Config::probed)?;
        for daemon in &mut cluster.daemons {
            daemon.wait_for_state("up")?;
        }
        let epoch = cluster.edge(1)?.epoch()?;
        let mut capture = Capture::router(lab, "proxy", "udp and not port 7470")?;
        let mut callee = Sipp::callee(lab, Kind::Call, family, Shape::default())?;
        let mut caller = Sipp::caller(lab, Kind::Call, family, (12 * RATE, RATE), Shape::default())?;
        let go_on = |caller: &Sipp, seconds: u32| {
            let until = caller.begun() + u64::from(seconds * RATE);
            poll_until_true("calls go on", Duration::from_secs(20), || Ok(caller.begun() >= until))
        };
        go_on(&caller, 3)?;
        let outcomes = cluster.outcomes()?;
        let killed = now_us()?;
        let proxy = edges.first_mut().context("find the proxy of edge 1")?;
        let died = Instant::now();
        proxy.kill()?;
        cluster.edge(1)?.wait_for_state("proxy-down")?;
        let seen = died.elapsed();
        let down = now_us()?;
        go_on(&caller, 4)?;
        let restarted = now_us()?;
        *proxy = Kamailio::edge(lab, 1, true)?;
        cluster.edge(1)?.wait_for_state("up")?;
        let counts = caller.finish(TIMEOUT)?;
        callee.stop()?;
        capture.stop()?;
        let moves = cluster.outcomes()?.since(&outcomes);
        eprintln!("{moves:?}");
        let diverted = moves.at(1)?.of("diverted");
        let tallies = tally(&capture.datagrams()?, family, [killed, down, restarted]);
        eprintln!("proxy dead, seen after {seen:?}, {diverted} requests left to peers: {tallies:?}; {counts:?}");
        ensure!(seen < SEEN, "the proxy's death was seen only after {seen:?}");
        let [_, _, meanwhile, after] = tallies.as_slice() else { anyhow::bail!("{tallies:?}") };
        ensure!(meanwhile.begun > 100 && after.begun > 100, "the death was not in the middle: {tallies:?}");
        ensure!(meanwhile.lost() + after.lost() == 0, "calls were lost: {tallies:?}");
        ensure!(diverted > 10, "hardly anything was left to the peers: {diverted} requests");
        ensure!(cluster.edge(1)?.epoch()? != epoch, "a proxy's new run is no new epoch");
        let may = [&HELD[..], &CLAIMS_LATE].concat();
        moves.at(1)?.only("a proxy's death, there", &[&CALLS[..], &["diverted"]].concat(), &may)?;
        for edge in [2, 3] {
            moves.at(edge)?.only(&format!("a proxy's death, at edge {edge}"), &CALLS, &may)?;
        }
        cluster.stop()
    })
}
