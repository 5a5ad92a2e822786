//! How a link ends: what the mesh asks of it, and what is told of it.

use std::fmt;

use forwarder_common::ids::NodeId;
use forwarder_core::{failover::LinkEnd, node::DATAGRAM_BYTES, wire::MESSAGE_BYTES};
use quinn::{ConnectionError, VarInt};

use super::handshake::Close;

/// Why the mesh ends a link; a dropped sender is the end of the daemon.
#[derive(Debug)]
pub(super) enum Stop {
    /// Another connection takes its place.
    Replaced,
    /// The peer broke the protocol.
    Dropped(String),
    /// The peer's certificate is not good any more.
    Untrusted(String),
}

/// How a link ended.
#[derive(Debug)]
pub(super) enum End {
    Closed(ConnectionError),
    Stopped,
    Replaced,
    Dropped(String),
    Untrusted(String),
    Silent,
    Oversized,
    Flood,
    Failed,
}

/// The end of a link, for the mesh.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) peer: NodeId,
    pub(super) id: u64,
    pub(super) end: End,
    /// It carried at least its hello.
    pub(super) announced: bool,
}

impl End {
    /// The peer broke the protocol.
    pub(super) const fn is_breach(&self) -> bool {
        matches!(self, Self::Dropped(_) | Self::Oversized | Self::Flood)
    }

    /// What the peer is told.
    pub(super) const fn close(&self) -> Close {
        match self {
            Self::Replaced => Close::Replaced,
            Self::Untrusted(_) => Close::Certificate,
            Self::Dropped(_) | Self::Oversized | Self::Flood => Close::Protocol,
            Self::Closed(_) | Self::Stopped | Self::Silent | Self::Failed => Close::Ended,
        }
    }

    /// The peer chose another connection, of which this side may hear a moment later.
    pub(super) fn is_for_another(&self) -> bool {
        self.is_closed_with(Close::Replaced)
    }

    /// What it says of the peer.
    pub(super) fn says_of_peer(&self) -> LinkEnd {
        match self {
            end if end.is_closed_with(Close::Ended) => LinkEnd::Leaving,
            Self::Closed(ConnectionError::Reset) => LinkEnd::Well,
            // It has another link to this node, of which this side has not heard in time.
            end if end.is_for_another() => LinkEnd::Well,
            Self::Closed(ConnectionError::TimedOut) => LinkEnd::Silent,
            Self::Closed(_)
            | Self::Stopped
            | Self::Replaced
            | Self::Dropped(_)
            | Self::Untrusted(_)
            | Self::Silent
            | Self::Oversized
            | Self::Flood
            | Self::Failed => LinkEnd::Gone,
        }
    }

    fn is_closed_with(&self, code: Close) -> bool {
        let code = VarInt::from_u32(code as u32);
        matches!(self, Self::Closed(ConnectionError::ApplicationClosed(close)) if close.error_code == code)
    }
}

impl From<Stop> for End {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Replaced => Self::Replaced,
            Stop::Dropped(reason) => Self::Dropped(reason),
            Stop::Untrusted(reason) => Self::Untrusted(reason),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(error) => write!(f, "{error}"),
            Self::Stopped => write!(f, "this daemon ends"),
            Self::Replaced => write!(f, "replaced"),
            Self::Dropped(reason) => write!(f, "dropped: {reason}"),
            Self::Untrusted(reason) => write!(f, "{reason}"),
            Self::Flood => write!(f, "dropped: more messages or datagrams than any peer has to send"),
            Self::Silent => write!(f, "no hello"),
            Self::Oversized => write!(
                f,
                "dropped: a message of more than {MESSAGE_BYTES} bytes, or a datagram of more than {DATAGRAM_BYTES}"
            ),
            Self::Failed => write!(f, "its task failed, which is a bug"),
        }
    }
}
