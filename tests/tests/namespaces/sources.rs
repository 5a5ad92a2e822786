//! Who claims: the proxy, from its service's socket and from those that the configuration names, and nobody else.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::forwarder::{Cluster, Config};
use tests::lab::{Family, Host, Lab, SIP, VIP4};
use tests::poll::poll_until_true;
use tests::traffic::{Endpoint, Sip};

/// Ports of edge 1's own address: of a source, and of somebody else.
const SOURCE: u16 = 5070;
const OTHER: u16 = 5090;

#[test]
fn what_others_send_claims_nothing_and_status_names_who_looks_like_a_proxy_v4() -> Result<()> {
    only_the_proxy_claims(Family::V4)
}

#[test]
fn what_others_send_claims_nothing_and_status_names_who_looks_like_a_proxy_v6() -> Result<()> {
    only_the_proxy_claims(Family::V6)
}

fn only_the_proxy_claims(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let own = Host::Edge(1).address(family);
        let with_source = |mut config: Config| {
            // One proxy has one source, and the lab writes the same lines for every service.
            config.vips = vec![family.vip().to_string()];
            if config.node == 1 {
                config.service.insert("sources", format!("[{:?}]", std::net::SocketAddr::new(own, SOURCE).to_string()));
            }
            config
        };
        let mut cluster = Cluster::start_with(lab, family, with_source)?;
        let carrier = Endpoint::bind(lab, Host::Carrier, Host::Carrier.address(family), SIP)?;
        let (source, other) =
            (Endpoint::bind(lab, Host::Edge(1), own, SOURCE)?, Endpoint::bind(lab, Host::Edge(1), own, OTHER)?);
        let call = |call_id| Sip { call_id, cseq: 1, method: "INVITE", branch: "z9hG4bKs", via: (VIP4, SIP).into() };

        let before = cluster.outcomes()?;
        for message in [call("other@lab").request(), call("other@lab").response("200 OK")] {
            other.send(&message, carrier.address()?)?;
            ensure!(carrier.receive()?.0 == message, "what others send is altered");
        }
        // Its claim comes behind those of the other, had that made any.
        source.send(&call("source@lab").request(), carrier.address()?)?;
        cluster.wait_for_owner("source@lab", 1, None, 1)?;
        for daemon in &cluster.daemons {
            ensure!(daemon.owner("other@lab", 1, None)?.is_none(), "what others send is claimed");
        }
        let moves = cluster.outcomes()?.since(&before);
        moves.exactly("three messages", &[&[("egress_not_service", 2), ("egress_claimed", 1)], &[], &[]])?;

        // The daemon is shown a packet a second and CPU.
        let sentence = format!("leaves from {}, which is no service's", other.address()?);
        poll_until_true("status names who looks like a proxy", Duration::from_secs(20), || {
            other.send(&call("other@lab").response("200 OK"), carrier.address()?)?;
            Ok(warnings(&cluster.edge(1)?.status()?)?.contains(&sentence))
        })?;
        let all = warnings(&cluster.edge(1)?.status()?)?;
        ensure!(!all.contains(&format!(":{SOURCE}")), "a source is taken for somebody else's: {all}");
        cluster.stop()
    })
}

fn warnings(status: &Value) -> Result<String> {
    Ok(status.get("warnings").context("find the warnings")?.to_string())
}
