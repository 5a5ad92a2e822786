//! The daemon's library.

pub mod cluster;
pub mod config;
pub mod control;
pub mod identity;
pub mod status;
