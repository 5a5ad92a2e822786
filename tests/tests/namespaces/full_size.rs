//! Packets as large as the underlay carries: with the tunnel's headers they no longer fit, and arrive all the same.

use anyhow::{Context as _, Result, ensure};
use tests::forwarder::{Cluster, Moves, Site};
use tests::lab::{Family, Lab, Spray};
use tests::traffic::{Endpoint, Sip, padded_to, vip};

/// Bytes below the largest payload at which a packet fits with the tunnel's headers in any case.
const ROOM: usize = 100;
/// Packets sent one right after the other.
const BURST: u32 = 200;

#[test]
fn full_size_packets_reach_their_owner_v4_in_v4() -> Result<()> {
    full_size_arrives(Family::V4, Family::V4)
}

#[test]
fn full_size_packets_reach_their_owner_v4_in_v6() -> Result<()> {
    full_size_arrives(Family::V4, Family::V6)
}

#[test]
fn full_size_packets_reach_their_owner_v6_in_v4() -> Result<()> {
    full_size_arrives(Family::V6, Family::V4)
}

#[test]
fn full_size_packets_reach_their_owner_with_generic_xdp() -> Result<()> {
    full_size_arrives(Family::V6, Site { xdp_mode: "generic", ..Family::V6.into() })
}

fn full_size_arrives(service: Family, site: impl Into<Site>) -> Result<()> {
    let site = site.into();
    Lab::run(|lab| {
        // The burst is of one transaction: more than any proxy's.
        let mut cluster = Cluster::start_with(lab, site, |mut config| {
            config.tail.push_str("[forward]\nkey_packets = 0\n");
            config
        })?;
        let client = Endpoint::client(lab, service)?;
        let (lands, owner) = (Endpoint::proxy(lab, 1, service)?, Endpoint::proxy(lab, 2, service)?);
        let call = Sip { call_id: "full@lab", cseq: 1, method: "INVITE", branch: "z9hG4bKf", via: client.address()? };
        owner.send(&call.response("100 Trying"), client.address()?)?;
        client.receive()?;
        cluster.wait_for_owner(call.call_id, 1, None, 2)?;
        lab.spray(&Spray::To(1))?;
        let before = cluster.outcomes()?;

        // One by one, of every size around the one at which the tunnel's headers no longer fit.
        let largest = match service {
            Family::V4 => 1472,
            Family::V6 => 1452,
        };
        for size in largest - ROOM..=largest {
            let message = padded_to(&call.request(), size);
            client.send(&message, vip(service))?;
            let (got, from) = owner.receive().with_context(|| format!("wait for {size} bytes"))?;
            ensure!(got == message && from == client.address()?, "{size} bytes from {from} were altered");
        }
        // And many at once.
        let message = padded_to(&call.request(), largest);
        for _ in 0..BURST {
            client.send(&message, vip(service))?;
        }
        for number in 1..=BURST {
            let (got, _) = owner.receive().with_context(|| format!("wait for packet {number} of a burst"))?;
            ensure!(got == message, "packet {number} of a burst was altered");
        }
        ensure!(lands.is_empty()?, "a packet reached the proxy where it landed");
        counted(&cluster.outcomes()?.since(&before), u64::try_from(ROOM)? + 1 + u64::from(BURST))?;
        cluster.stop()
    })
}

/// Small ones take the kernel's way, large ones the daemons', and all together are what was sent.
fn counted(moves: &Moves, sent: u64) -> Result<()> {
    let (first, second) = (moves.at(1)?, moves.at(2)?);
    first.only("full-size packets where they land", &["forwarded", "punted_too_big", "slow_forwarded"], &[])?;
    // Behind generic XDP the daemon injects through the tunnel.
    second.only("full-size packets at their owner", &["decapsulated", "slow_received"], &["decap_injected"])?;
    moves.at(3)?.only("full-size packets elsewhere", &[], &[])?;
    let (fast, slow) = (first.of("forwarded"), first.of("slow_forwarded"));
    ensure!(fast + slow == sent && fast > 0, "{fast} packets fitted and {slow} did not, of {sent}");
    ensure!(slow > u64::from(BURST) && first.of("punted_too_big") == slow, "not each large packet was punted");
    let (through_kernel, through_daemon) = (second.of("decapsulated"), second.of("slow_received"));
    ensure!(through_kernel == fast && through_daemon == slow, "edge 2 got {through_kernel} and {through_daemon}");
    Ok(())
}
