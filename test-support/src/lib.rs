//! What several tests and the fuzz targets share: messages and packets, what surrounds the code under test, and what
//! must hold of both. Only tests depend on it.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "what panics here fails a test"
)]

pub mod agree;
pub mod corpus;
pub mod mutate;
#[cfg(feature = "daemon")]
pub mod programs;
#[cfg(feature = "daemon")]
pub mod properties;
pub mod random;
#[cfg(feature = "core")]
pub mod slowpath;
