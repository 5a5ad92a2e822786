//! The daemon's library.

pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod identity;
pub mod metrics;
pub mod status;
