//! Who presents a certificate of another cluster, or somebody's node id, stays outside, and does not fill the log.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::forwarder::{Authority, Config, Daemon};
use tests::lab::{Family, Host, Lab};
use tests::poll::poll_until_true;

#[test]
fn a_peer_of_another_cluster_is_refused_and_named_once_a_minute() -> Result<()> {
    Lab::run(|lab| {
        let family = Family::V4;
        let ours = Authority::init(&lab.folder().join("ours"), "lab")?;
        let theirs = Authority::init(&lab.folder().join("theirs"), "lab")?;
        let mut daemons = Vec::new();
        for (edge, authority) in [(1, &ours), (2, &ours), (3, &theirs)] {
            authority.issue(edge, &Host::Edge(edge).address(family).to_string())?;
            daemons.push(Daemon::start(lab, edge, &Config::new(lab, authority, edge, family))?);
        }
        let [first, second, third] = daemons.as_mut_slice() else { anyhow::bail!("three daemons were started") };
        first.wait_for_peers(1)?;
        second.wait_for_peers(1)?;
        // More than one attempt, so that "once a minute" says something.
        poll_until_true("edge 1 has refused edge 3 three times", Duration::from_secs(30), || Ok(refused(first)? >= 3))?;
        ensure!(third.peers_up()? == 0, "a stranger became a peer");
        for daemon in [&*first, &*second] {
            let log = daemon.log();
            let lines = log.lines().filter(|line| line.contains("refused 10.9.4.2")).count();
            ensure!(lines <= 1, "the stranger is named {lines} times within a minute");
        }
        ensure!(first.log().contains("certificate is not of this cluster"), "the log does not say why");
        ensure!(first.peers_up()? == 1 && second.peers_up()? == 1, "the stranger disturbs the others");
        Ok(())
    })
}

fn refused(daemon: &Daemon) -> Result<u64> {
    let status = daemon.status()?;
    let count = status.pointer("/replication/refused_certificates").and_then(Value::as_u64);
    count.context("find refused_certificates in the status")
}

#[test]
fn a_second_node_with_the_same_id_stays_outside() -> Result<()> {
    Lab::run(|lab| {
        let family = Family::V4;
        let authority = Authority::init(&lab.folder().join("pki"), "lab")?;
        let mut daemons = Vec::new();
        for edge in [1, 2] {
            authority.issue(edge, &Host::Edge(edge).address(family).to_string())?;
            daemons.push(Daemon::start(lab, edge, &Config::new(lab, &authority, edge, family))?);
        }
        let [first, second] = daemons.as_mut_slice() else { anyhow::bail!("two daemons were started") };
        first.wait_for_peers(1)?;
        second.wait_for_peers(1)?;
        // Edge 3 claims to be node 2, with node 2's own certificate.
        let mut config = Config::new(lab, &authority, 3, family);
        config.head.insert("node", "2".to_owned());
        for (name, file) in [("certificate", "node-2.pem"), ("key", "node-2.key")] {
            config.cluster.insert(name, format!("{:?}", authority.file(file).display().to_string()));
        }
        let third = Daemon::start(lab, 3, &config)?;
        poll_until_true("edge 1 says that a node id is there twice", Duration::from_secs(10), || {
            Ok(first.log().lines().any(|line| line.contains("10.9.4.2") && line.contains("node 2")))
        })?;
        ensure!(first.peers_up()? == 1 && second.peers_up()? == 1, "the second node 2 disturbs the first");
        ensure!(third.peers_up()? == 0, "the second node 2 is linked");
        Ok(())
    })
}
