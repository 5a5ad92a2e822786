//! SIP messages (RFC 3261): the fast reader for the kernel and the slow one for the full grammar.

pub mod fast;
pub mod full;
mod kind;
mod method;
mod swar;

pub use kind::Kind;
pub use method::Method;
