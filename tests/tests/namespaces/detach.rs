//! Leaving: after `forwarder detach` the host is as it was.

use anyhow::{Result, ensure};
use tests::attached::{ensure_nothing, programs};
use tests::forwarder::{Cluster, pin_folder};
use tests::lab::{EDGES, Family, Host, Lab, Spray};
use tests::traffic::{Endpoint, Sip, vip};

#[test]
fn detach_leaves_nothing_attached_or_pinned() -> Result<()> {
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, Family::V4)?;
        for host in lab.edges().map(Host::Edge) {
            let attached = programs(lab, host)?;
            ensure!(
                attached.contains(&"xdp".to_owned()) && attached.len() == 2,
                "attached to {}: {attached:?}",
                host.name()
            );
        }
        cluster.stop()?;
        for edge in 1..=EDGES {
            let daemon = cluster.edge(edge)?;
            let config = daemon.config().display().to_string();
            let output = daemon.command(&["detach", "--config", &config])?;
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "detach ended with {}: {errors}", output.status);
            ensure_nothing(lab, Host::Edge(edge), &pin_folder(lab.prefix(), edge))?;
        }
        // And packets still flow.
        let (client, proxy) = (Endpoint::client(lab, Family::V4)?, Endpoint::proxy(lab, 2, Family::V4)?);
        lab.spray(&Spray::To(2))?;
        let call = Sip { call_id: "bare@lab", cseq: 1, method: "OPTIONS", branch: "z9hG4bKb", via: client.address()? };
        client.send(&call.request(), vip(Family::V4))?;
        ensure!(proxy.receive()?.0 == call.request(), "a host without the forwarder alters packets");
        Ok(())
    })
}
