//! A proxy that dies again and again: no number of an epoch brings claims of an earlier run back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::forwarder::{Cluster, Config, Daemon};
use tests::lab::{Family, Lab};
use tests::poll::poll_until_true;
use tests::traffic::{Endpoint, Sip};

/// Epochs in all: after so many runs their numbers come round.
const EPOCHS: u64 = 16;
/// How long an end may take to be seen; a look at the sockets every 250 ms, and a busy machine.
const SEEN: Duration = Duration::from_secs(5);

#[test]
fn claims_of_the_first_run_are_gone_when_the_epochs_come_round() -> Result<()> {
    let family = Family::V6;
    Lab::run(|lab| {
        let mut proxy = Endpoint::proxy(lab, 1, family)?;
        let change = |mut config: Config| {
            config.vips = vec![family.vip().to_string()];
            if config.node == 1 { config.probed() } else { config }
        };
        let mut cluster = Cluster::start_some(lab, family, [1, 2], change)?;
        for daemon in &mut cluster.daemons {
            daemon.wait_for_peers(1)?;
        }
        let outcomes = cluster.outcomes()?;
        live(&proxy, cluster.edge(1)?)?;
        let first = cluster.edge(1)?.epoch()?;
        let client = Endpoint::client(lab, family)?;
        let call = Sip { call_id: "first@lab", cseq: 1, method: "INVITE", branch: "z9hG4bKf", via: client.address()? };
        // As long as a claim can last: Timer C and what comes after it.
        proxy.send(&call.response("180 Ringing"), client.address()?)?;
        cluster.wait_for_owner(call.call_id, call.cseq, None, 1)?;

        for run in 1..=EPOCHS {
            drop(proxy);
            let daemon = cluster.edge(1)?;
            let number = (first + run) % EPOCHS;
            poll_until_true(&format!("run {run} is epoch {number}"), SEEN, || Ok(daemon.epoch()? == number))?;
            for daemon in &cluster.daemons {
                let own = daemon.owner(call.call_id, call.cseq, None)?;
                ensure!(own.is_none(), "in run {run} the first one's claim counts: {own:?}");
            }
            proxy = Endpoint::proxy(lab, 1, family)?;
            live(&proxy, cluster.edge(1)?)?;
        }
        ensure!(cluster.edge(1)?.epoch()? == first, "the epochs have not come round");
        let moves = cluster.outcomes()?.since(&outcomes);
        // One claim in all, and no packet of its transaction.
        moves.exactly("sixteen runs", &[&[("egress_claimed", 1)], &[]])?;
        cluster.stop()
    })
}

/// Answers probes until the node is up.
fn live(proxy: &Endpoint, daemon: &mut Daemon) -> Result<()> {
    poll_until_true("the proxy is seen to live", SEEN, || {
        let (probe, from) = proxy.receive().context("wait for a probe")?;
        let probe = String::from_utf8(probe).context("read a probe")?;
        let (_, headers) = probe.split_once("\r\n").context("read a probe")?;
        proxy.send(format!("SIP/2.0 200 OK\r\n{headers}").as_bytes(), from)?;
        Ok(daemon.state()? == "up")
    })
}
