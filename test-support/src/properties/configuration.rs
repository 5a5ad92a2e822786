//! Any text as a configuration: it is refused in one sentence with a way out, or every value is within its bounds.

use std::path::Path;

use forwarder::{
    config::{self, Config, MAX_CLAIMS, MAX_INTERFACE_NAME, MAX_SEEDS, MIN_CLAIMS, is_cluster_name},
    foreign,
};
use forwarder_common::abi::{MAX_SERVICES, MAX_SOURCES};

/// Reads `data` as the daemon does.
///
/// # Panics
/// A value is out of bounds, a refusal names no way out, or reading it again says something else.
pub fn configuration(data: &[u8]) {
    // What is no text is refused by the operating system's reader of texts.
    let Ok(text) = str::from_utf8(data) else { return };
    let read = || config::parse(text, Path::new("/etc/forwarder")).map_err(|error| format!("{error:#}"));
    match read() {
        Ok(config) => within_bounds(&config),
        Err(why) => {
            assert!(why.contains("; hint: ") || why.contains(" hint: "), "no way out: {why:?}");
            let shown = foreign::line(&why);
            assert_eq!(foreign::escaped(&shown), shown);
            assert_eq!(read().map(drop), Err(why));
        }
    }
}

fn within_bounds(config: &Config) {
    let Config { interfaces, services, cluster, claims, .. } = config;
    assert!((MIN_CLAIMS..=MAX_CLAIMS).contains(claims) && (1..=MAX_SERVICES as usize).contains(&services.len()));
    assert!(!interfaces.is_empty() && is_cluster_name(&cluster.name) && cluster.seeds.len() <= MAX_SEEDS);
    for name in interfaces {
        assert!((1..=MAX_INTERFACE_NAME).contains(&name.len()) && !name.contains(['/', '\0', '\n']), "{name:?}");
    }
    let mut places: Vec<_> = services.iter().map(|service| (service.vip, service.port)).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), services.len(), "a service is there twice");
    assert!(services.iter().map(|service| service.sources.len()).sum::<usize>() <= MAX_SOURCES as usize);
    for address in services.iter().map(|service| service.vip).chain([config.underlay, cluster.listen.ip()]) {
        assert!(!address.is_unspecified() && !address.is_multicast(), "{address} is no host's");
    }
    assert!(services.iter().all(|service| service.vip != config.underlay && service.port != 0));
    assert!(!cluster.deny.nodes.contains(&config.node.number()) && !cluster.seeds.contains(&cluster.listen));
    for path in [&config.pin_dir, &config.control, &cluster.ca, &cluster.certificate, &cluster.key, &cluster.secret] {
        assert!(path.is_absolute(), "{} counts from no folder", path.display());
    }
}
