//! The configuration in the kernel programs' terms.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use forwarder_common::{
    abi::{self, Address, ServiceKey},
    bound::Costs,
    hash::SipHash,
    ids::{Epoch, IpProtocol, Tick},
    lifetime,
};
use forwarder_core::wire::{MustEqual, Service};
use ring::rand::SecureRandom as _;

use crate::{
    config::{self, Affinity, Config},
    dataplane,
    identity::{self, Secrets},
};

/// Seconds of one epoch number. Sixteen of them outlast the claims of transactions; those of calls may last longer, and
/// a node with several services takes several numbers at once. What peers still hold of an earlier run they say in
/// their hellos, and such a number is given up again.
pub const EPOCH_SECONDS: u64 = 16;

/// What the kernel programs are told.
pub(super) fn kernel_settings(config: &Config, secrets: &Secrets) -> dataplane::Settings {
    let timers = &config.timers;
    let call_ticks = Tick::covering_ms(timers.call_ttl_s * 1000);
    let is_call = |affinity: Affinity| matches!(affinity, Affinity::Call);
    let services = config.services.iter().map(|service| {
        let call = is_call(service.affinity);
        let flags = abi::SERVICE_SET | if call { abi::AFFINITY_CALL } else { 0 };
        let call_ticks = if call { call_ticks } else { 0 };
        let key = ServiceKey { vip: Address::of(service.vip), port: service.port.to_be(), pad: 0 };
        (key, abi::Service { flags, call_ticks, ..abi::Service::default() })
    });
    let sources = config.services.iter().zip(0..abi::NO_SERVICE).flat_map(|(service, index)| {
        let key =
            |source: &SocketAddr| ServiceKey { vip: Address::of(source.ip()), port: source.port().to_be(), pad: 0 };
        service.sources.iter().map(move |source| (key(source), index))
    });
    dataplane::Settings {
        secrets: *secrets,
        config: abi::Config {
            underlay: Address::of(config.underlay),
            vni: identity::vni(&config.cluster.name),
            node: config.node.number(),
            lifetimes: lifetimes(config),
            costs: Costs::new(&config.forward),
            ..abi::Config::default()
        },
        services: services.collect(),
        sources: sources.collect(),
        claims: config.claims,
    }
}

/// How long claims last.
pub(super) const fn lifetimes(config: &Config) -> abi::Lifetimes {
    let timers = &config.timers;
    lifetime::of_timers(timers.t1_ms, timers.timer_c_s * 1000, timers.call_ttl_s * 1000)
}

/// The epoch to begin with where no maps tell of an earlier start: another one every 16 s, so that a host that boots
/// again and again goes round.
pub(super) fn first_epoch() -> Epoch {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Epoch::new(unix.as_secs() / EPOCH_SECONDS)
}

/// The services as peers are told of them.
pub(super) fn told_services(config: &Config) -> Vec<Service> {
    let told = |service: &config::Service| {
        let affinity = match service.affinity {
            Affinity::Transaction => Service::AFFINITY_TRANSACTION,
            Affinity::Call => Service::AFFINITY_CALL,
        };
        let address = SocketAddr::new(service.vip, service.port);
        Service { address, transport: IpProtocol::UDP.0, affinity }
    };
    config.services.iter().map(told).collect()
}

/// What must be equal on all nodes, as peers are told of it: hashes, which do not give a secret away.
pub(super) fn must_equal(config: &Config, secrets: &Secrets) -> Vec<MustEqual> {
    let hash = |key: [u64; 2], words: &[u64]| {
        let mut hash = SipHash::new(key);
        words.iter().for_each(|word| hash.put(*word));
        hash.finish(words.len() * 8)
    };
    let timers = &config.timers;
    vec![
        MustEqual { what: MustEqual::HASH_KEY, hash: hash(secrets.hash_key, &[0]) },
        MustEqual { what: MustEqual::TIMERS, hash: hash([0; 2], &[timers.t1_ms, timers.timer_c_s, timers.call_ttl_s]) },
    ]
}

/// Randomness for the core.
pub(super) fn seed() -> Result<u64> {
    let mut seed = [0; 8];
    ring::rand::SystemRandom::new()
        .fill(&mut seed)
        .map_err(|_| anyhow::anyhow!("ask the kernel for randomness: it gave none"))?;
    Ok(u64::from_ne_bytes(seed))
}
