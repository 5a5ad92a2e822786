//! The cluster's nodes in virtual time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "cluster/arbitration.rs"]
mod arbitration;
#[path = "cluster/asks.rs"]
mod asks;
#[path = "cluster/epochs.rs"]
mod epochs;
#[path = "cluster/invites.rs"]
mod invites;
#[path = "cluster/members.rs"]
mod members;
#[path = "cluster/mesh.rs"]
mod mesh;
#[path = "cluster/node.rs"]
mod node;
#[path = "cluster/repair.rs"]
mod repair;
#[path = "cluster/restored.rs"]
mod restored;
#[path = "cluster/schedules.rs"]
mod schedules;
#[path = "cluster/words.rs"]
mod words;
