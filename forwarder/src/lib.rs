//! The daemon's library.

pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod explain;
pub mod foreign;
pub mod identity;
pub mod metrics;
mod netlink;
pub mod routes;
pub mod status;
pub mod tunnel;
