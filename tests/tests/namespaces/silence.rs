//! All proxies fall silent at once, as in a flood: the shared address stays announced at exactly one edge, without a
//! moment at which it is announced nowhere, and all edges come back when their proxies answer.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::forwarder::Cluster;
use tests::kamailio::Kamailio;
use tests::lab::bgp::{self, Bgp, announcing};
use tests::lab::{Family, Lab};
use tests::poll::poll_until_true;
use tests::sipp::{Kind, Shape, Sipp};

const TIMEOUT: Duration = Duration::from_secs(30);
/// How often the router's table is looked at.
const LOOK: Duration = Duration::from_millis(20);

#[test]
fn of_edges_whose_proxies_are_all_silent_one_stays_announced_and_all_come_back_v4() -> Result<()> {
    all_are_silent(Family::V4)
}

#[test]
fn of_edges_whose_proxies_are_all_silent_one_stays_announced_and_all_come_back_v6() -> Result<()> {
    all_are_silent(Family::V6)
}

fn all_are_silent(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let mut edges = Kamailio::edges(lab, true)?;
        let mut bgp = Bgp::start(lab, family)?;
        let hook = bgp::hook(lab)?;
        let mut cluster = Cluster::start_with(lab, family, |config| config.probed().hooked(&hook))?;
        let router = lab.router().clone();
        let announced = || announcing(&router, family);
        let announce = |what: &str, wanted: &[u8]| poll_until_true(what, TIMEOUT, || Ok(announced()? == wanted));
        announce("all edges are announced", &[1, 2, 3])?;
        let (ends, looks, nowhere) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
        scope(|scope| -> Result<()> {
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) {
                    if let Ok(edges) = announced() {
                        looks.fetch_add(1, Ordering::Relaxed);
                        nowhere.fetch_add(u32::from(edges.is_empty()), Ordering::Relaxed);
                    }
                    sleep(LOOK);
                }
            });
            let played = (|| {
                edges.iter().for_each(Kamailio::pause);
                announce("one edge is left", &[1])?;
                cluster.edge(2)?.wait_for_state("proxy-down")?;
                cluster.edge(3)?.wait_for_state("proxy-down")?;
                let kept = cluster.edge(1)?;
                ensure!(kept.state()? == "up", "edge 1 says that it is {}", kept.state()?);
                ensure!(kept.status()?.to_string().contains("keep_up"), "its status does not say why");
                edges.iter().for_each(Kamailio::go_on);
                announce("all edges are back", &[1, 2, 3])
            })();
            ends.store(true, Ordering::Relaxed);
            played
        })?;
        let (looks, nowhere) = (looks.into_inner(), nowhere.into_inner());
        ensure!(looks > 10 && nowhere == 0, "nobody was announced, {nowhere} times of {looks}");
        let told = |edge: u8| fs::read_to_string(lab.folder().join(format!("state-{edge}.all"))).context("read states");
        ensure!(told(1)? == "joining up\n", "the hook of edge 1 was told: {}", told(1)?);
        for edge in [2, 3] {
            let expected = "joining up\nup proxy-down\nproxy-down up\n";
            ensure!(told(edge)? == expected, "the hook of edge {edge} was told: {}", told(edge)?);
        }
        let mut callee = Sipp::callee(lab, Kind::Call, family, Shape::default())?;
        let mut caller = Sipp::caller(lab, Kind::Call, family, (40, 20), Shape::default())?;
        let counts = caller.finish(TIMEOUT)?;
        callee.stop()?;
        ensure!(counts.failed == 0 && counts.successful == 40, "calls are lost afterwards: {counts:?}");
        // One edge's silence is no flood, and a proxy that has stopped is none, whoever else is up.
        let first = edges.first_mut().context("find the proxy of edge 1")?;
        first.pause();
        announce("a silent edge goes while others are up", &[2, 3])?;
        for proxy in edges.iter_mut().skip(1) {
            proxy.kill()?;
        }
        announce("the silent edge comes up for those whose proxies have stopped", &[1])?;
        edges.first_mut().context("find the proxy of edge 1")?.kill()?;
        announce("nobody is announced whose proxy has stopped", &[])?;
        bgp.must_run()?;
        cluster.stop()
    })
}
