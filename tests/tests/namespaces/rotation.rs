//! The cluster's secret, its authority and all certificates are replaced under load, without a restart and without a
//! loss.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::forwarder::outcomes::{CALLS, HELD};
use tests::forwarder::{Authority, Cluster, Config, tool_ok};
use tests::kamailio::Kamailio;
use tests::lab::{EDGES, Family, Host, Lab};
use tests::poll::poll_until_true;
use tests::sipp::{Kind, Shape, Sipp};

/// Calls of each kind a second.
const RATE: u32 = 20;
/// More than the test lasts.
const MANY: u32 = 100_000;
/// What a daemon says when it has taken up a secret, and certificates.
const SECRET: &str = "the cluster's secret has changed";
const CERTIFICATES: &str = "certificates or `deny` have changed";

#[test]
fn secret_and_certificates_are_replaced_under_load_without_a_loss() -> Result<()> {
    let family = Family::V4;
    Lab::run(|lab| {
        let edges = Kamailio::edges(lab, true)?;
        let pki = lab.folder().join("pki");
        // Each node has a copy of its own of the secret and of the authorities.
        let change = |mut config: Config| {
            for (key, file) in [("secret", "cluster.secret"), ("ca", "ca.pem")] {
                let copy = pki.join(format!("{file}-{}", config.node));
                // Where there is none, the daemon does not start.
                let _ = fs::copy(pki.join(file), &copy);
                config.cluster.insert(key, format!("{:?}", copy.display().to_string()));
            }
            config.hurried()
        };
        let mut cluster = Cluster::start_with(lab, family, change)?;
        let before = cluster.outcomes()?;
        let mut pairs = Vec::new();
        for kind in [Kind::Call, Kind::Cancel, Kind::Busy] {
            let callee = Sipp::callee(lab, kind, family, Shape::default())?;
            pairs.push((kind, callee, Sipp::caller(lab, kind, family, (MANY, RATE), Shape::default())?));
        }

        replace_secret(&mut cluster, &pki)?;
        replace_certificates(&mut cluster, &pki, &lab.folder().join("pki-2"), family)?;
        cluster.wait_until_linked()?;

        for (kind, callee, caller) in &mut pairs {
            let calls = caller.stop()?;
            callee.stop()?;
            eprintln!("{kind:?}: {calls:?}");
            ensure!(calls.failed == 0 && calls.successful == calls.calls, "calls were lost: {kind:?} {calls:?}");
            ensure!(calls.calls > u64::from(RATE) * 10, "hardly anything happened meanwhile: {calls:?}");
        }
        for kind in ["stray_reply", "stray_ack", "stray_cancel"] {
            let strays: u64 = edges.iter().map(|edge| edge.count(kind)).sum();
            ensure!(strays == 0, "{strays} times {kind}");
        }
        // Above all nothing that the tunnel refuses.
        let races: Vec<&str> = HELD.into_iter().chain(["slow_received"]).collect();
        cluster.outcomes()?.since(&before).only("a rotation", &CALLS, &races)?;

        // New links, of which every one is made with the new certificates, under the new authority alone.
        lab.router().cut_links(2)?;
        cluster.edge(2)?.wait_for_peers(0)?;
        lab.router().mend_links()?;
        cluster.wait_until_linked()?;
        cluster.stop()
    })
}

/// Replaces the secret of all edges, in the three steps of `forwarder cluster rotate`.
fn replace_secret(cluster: &mut Cluster, pki: &Path) -> Result<()> {
    let files = tool_ok(&["cluster", "rotate", "--dir", &pki.display().to_string()])?;
    ensure!(files.lines().count() == 3, "rotate wrote {files:?}");
    for step in ["1-both", "2-new-first", "3-new"] {
        for edge in 1..=EDGES {
            let files = [(format!("cluster.secret.{step}"), format!("cluster.secret-{edge}"))];
            replace(cluster, edge, (pki, pki), &files, SECRET)?;
        }
    }
    Ok(())
}

/// Replaces the authority and all certificates by others that are made in `other`: first both authorities are trusted,
/// then the certificates are replaced, then the first authority is taken away.
fn replace_certificates(cluster: &mut Cluster, pki: &Path, other: &Path, family: Family) -> Result<()> {
    let authority = Authority::init(other, "lab")?;
    let read = |folder: &Path| fs::read_to_string(folder.join("ca.pem")).context("read an authority");
    fs::write(other.join("both.pem"), read(pki)? + &read(other)?).context("write both authorities")?;
    for edge in 1..=EDGES {
        authority.issue(edge, &Host::Edge(edge).address(family).to_string())?;
        let files = [("both.pem".to_owned(), format!("ca.pem-{edge}"))];
        replace(cluster, edge, (other, pki), &files, CERTIFICATES)?;
    }
    for edge in 1..=EDGES {
        let files = ["pem", "key"].map(|ending| format!("node-{edge}.{ending}")).map(|name| (name.clone(), name));
        replace(cluster, edge, (other, pki), &files, CERTIFICATES)?;
    }
    for edge in 1..=EDGES {
        let files = [("ca.pem".to_owned(), format!("ca.pem-{edge}"))];
        replace(cluster, edge, (other, pki), &files, CERTIFICATES)?;
    }
    Ok(())
}

/// Puts files of one folder in the place of others in another, each in one step, and waits until the daemon says so.
fn replace(
    cluster: &mut Cluster,
    edge: u8,
    (from, to): (&Path, &Path),
    files: &[(String, String)],
    says: &str,
) -> Result<()> {
    let daemon = cluster.edge(edge)?;
    let said = daemon.log().matches(says).count();
    for (new, old) in files {
        let passing = to.join(format!("{old}.new"));
        fs::copy(from.join(new), &passing).with_context(|| format!("copy {new}"))?;
        fs::rename(&passing, to.join(old)).with_context(|| format!("replace {old}"))?;
    }
    poll_until_true(&format!("edge {edge} takes up {files:?}"), Duration::from_secs(10), || {
        Ok(daemon.log().matches(says).count() > said)
    })
}
