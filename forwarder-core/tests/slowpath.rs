//! The slow path in virtual time, against a table and peers of the test's making.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "slowpath/bounds.rs"]
mod bounds;
#[path = "slowpath/fragments.rs"]
mod fragments;
#[path = "slowpath/holds.rs"]
mod holds;
#[path = "slowpath/limits.rs"]
mod limits;
#[path = "slowpath/reasons.rs"]
mod reasons;
#[path = "slowpath/scripts.rs"]
mod scripts;

use test_support::slowpath::{packets, world};
