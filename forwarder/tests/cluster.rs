//! The cluster's links over the loopback.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "cluster/callees.rs"]
mod callees;
#[path = "cluster/daemon.rs"]
mod daemon;
#[path = "cluster/links.rs"]
mod links_over_loopback;
#[path = "cluster/names.rs"]
mod names;
#[path = "cluster/raw.rs"]
mod raw;
#[path = "cluster/renewal.rs"]
mod renewal;
#[path = "cluster/strangers.rs"]
mod strangers;
#[path = "cluster/versions.rs"]
mod versions;
