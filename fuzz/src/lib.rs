//! The daemon's slow path, without the daemon: it knows no input and no output, so its source alone can be built here.

#[path = "../../forwarder/src"]
mod daemon {
    pub mod fragments;
    pub mod slowpath;
}

pub use daemon::{fragments, slowpath};
