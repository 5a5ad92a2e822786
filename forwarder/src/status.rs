//! What the daemon says of itself: one snapshot, for JSON, for a terminal and for the metrics.

mod snapshot;
mod text;

pub use self::{
    snapshot::{Age, Certificate, Claims, Hook, Interface, NextHop, Peer, Replication, Service, Status},
    text::{CLAIMS_WARNED_PERCENT, render},
};
