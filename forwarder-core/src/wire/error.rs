//! What may be wrong with a message.

use std::fmt;

use super::bounds::VERSION;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// It ends too early, or goes on after its end.
    Length,
    /// Longer than [`super::MESSAGE_BYTES`], or than [`super::PACKET_BYTES`] where it is no snapshot.
    Oversized,
    /// Another protocol version.
    Version(u8),
    /// No such kind of message.
    Kind(u8),
    /// No such state of a node.
    State(u8),
    /// A node id outside 1..=1023.
    Node(u16),
    /// An address family that is neither 4 nor 6.
    Family(u8),
    /// A remaining lifetime beyond [`super::LIFETIME_MS`].
    Lifetime(u32),
    /// A flag that this version does not know.
    Flags(u8),
    /// A field of a hello that came before.
    Twice(u8),
    /// A hello without a field that it must have.
    Missing(u8),
    /// Numbers of claims that cannot be: too large, outside their stretch, or a range without one.
    Numbers,
    /// More claims in one answer than one ask has keys.
    Claims(u8),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => write!(f, "a message of the wrong length"),
            Self::Oversized => write!(f, "a message that is too long"),
            Self::Version(version) => write!(f, "protocol version {version}, this daemon speaks {VERSION}"),
            Self::Kind(kind) => write!(f, "an unknown kind of message ({kind})"),
            Self::State(state) => write!(f, "an unknown state of a node ({state})"),
            Self::Node(node) => write!(f, "an impossible node id ({node})"),
            Self::Family(family) => write!(f, "an unknown address family ({family})"),
            Self::Lifetime(ms) => write!(f, "a lifetime out of bounds ({ms} ms)"),
            Self::Flags(flags) => write!(f, "unknown flags ({flags:#04x})"),
            Self::Twice(kind) => write!(f, "a hello with field {kind} twice"),
            Self::Missing(kind) => write!(f, "a hello without field {kind}"),
            Self::Numbers => write!(f, "impossible numbers of claims"),
            Self::Claims(count) => write!(f, "too many claims in one answer ({count})"),
        }
    }
}

impl std::error::Error for WireError {}
