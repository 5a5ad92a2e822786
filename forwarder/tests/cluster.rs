//! The cluster's core in virtual time, and its links over the loopback.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "cluster/asks.rs"]
mod asks_in_virtual_time;
#[path = "cluster/callees.rs"]
mod callees;
#[path = "cluster/core.rs"]
mod core_in_virtual_time;
#[path = "cluster/daemon.rs"]
mod daemon;
#[path = "cluster/links.rs"]
mod links_over_loopback;
#[path = "cluster/lives.rs"]
mod lives_in_virtual_time;
#[path = "cluster/look_ups.rs"]
mod look_ups_in_virtual_time;
#[path = "cluster/members.rs"]
mod members_in_virtual_time;
#[path = "cluster/mesh.rs"]
mod mesh;
#[path = "cluster/raw.rs"]
mod raw;
#[path = "cluster/renewal.rs"]
mod renewal;
#[path = "cluster/repair.rs"]
mod repair_in_virtual_time;
#[path = "cluster/schedules.rs"]
mod schedules;
#[path = "cluster/strangers.rs"]
mod strangers;
#[path = "cluster/words.rs"]
mod words_in_virtual_time;
