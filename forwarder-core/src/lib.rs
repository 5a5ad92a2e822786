//! What a node of the cluster decides, as pure state machines: times, randomness and bytes are arguments, what is to be
//! done comes out of `poll_*`.
//!
//! [`node`] says which claim counts and what the peers are told, [`slowpath`] what becomes of a packet that the kernel
//! programs could not finish. The crate depends on no runtime, socket, kernel or clock, so Cargo keeps them out;
//! `clippy.toml` forbids the standard library's clocks and hash maps.

pub mod ages;

pub mod failover;
pub mod fragments;

pub mod node;
mod now;
pub mod slowpath;
mod state;
pub mod store;
pub mod wire;
