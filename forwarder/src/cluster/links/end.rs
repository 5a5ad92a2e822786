//! How a link ends: what the mesh asks of it, and what is told of it.

use std::fmt;

use forwarder_common::ids::NodeId;
use forwarder_core::{
    failover::LinkEnd,
    node::DATAGRAM_BYTES,
    wire::{MESSAGE_BYTES, VERSION},
};
use quinn::{Connection, ConnectionError, VarInt};

use super::handshake::Close;
use crate::foreign::Foreign;

/// What a close for another version says, before the closing node's own version.
const VERSION_IS: &str = "version ";

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
    /// The peer speaks another version of the protocol; `None`: it has not said which.
    Version {
        peer: NodeId,
        theirs: Option<u8>,
    },
    Oversized,
    Failed,
}

/// The end of a link, for the mesh.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) peer: NodeId,
    pub(super) id: u64,
    pub(super) end: End,
    /// Both ends have said that they speak the same version.
    pub(super) announced: bool,
}

impl End {
    /// The peer broke the protocol.
    pub(super) const fn is_breach(&self) -> bool {
        matches!(self, Self::Dropped(_) | Self::Oversized)
    }

    /// The end of a connection on which no versions were exchanged yet.
    pub(super) fn of_opening(peer: NodeId, error: ConnectionError) -> Self {
        let code = VarInt::from_u32(Close::Version as u32);
        let ConnectionError::ApplicationClosed(close) = &error else { return Self::Closed(error) };
        if close.error_code != code {
            return Self::Closed(error);
        }
        let said = str::from_utf8(&close.reason).ok().and_then(|said| said.strip_prefix(VERSION_IS));
        let theirs = said.and_then(|version| version.parse().ok()).filter(|version| *version != VERSION);
        Self::Version { peer, theirs }
    }

    /// Tells the peer.
    pub(super) fn apply(&self, connection: &Connection) {
        let reason = self.to_string();
        match self {
            Self::Replaced => Close::Replaced.apply(connection, &reason),
            Self::Untrusted(_) => Close::Certificate.apply(connection, &reason),
            Self::Version { .. } => Close::Version.apply(connection, &format!("{VERSION_IS}{VERSION}")),
            Self::Dropped(_) | Self::Oversized => Close::Protocol.apply(connection, &reason),
            Self::Closed(_) | Self::Stopped | Self::Silent | Self::Failed => Close::Ended.apply(connection, &reason),
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
            // It was restarted as another version: its host may be well.
            Self::Version { .. } => LinkEnd::Leaving,
            // Its host may be well, and its daemon one that starts or has stalled: its programs say.
            Self::Closed(ConnectionError::TimedOut) | Self::Silent => LinkEnd::Silent,
            Self::Closed(_)
            | Self::Stopped
            | Self::Replaced
            | Self::Dropped(_)
            | Self::Untrusted(_)
            | Self::Oversized
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
            Self::Closed(error) => write!(f, "{}", Foreign::new(error)),
            Self::Stopped => write!(f, "this daemon ends"),
            Self::Replaced => write!(f, "replaced"),
            Self::Dropped(reason) => write!(f, "dropped: {reason}"),
            Self::Untrusted(reason) => write!(f, "{reason}"),
            Self::Silent => write!(f, "no hello"),
            Self::Version { peer, theirs } => {
                write!(f, "node {} speaks ", peer.number())?;
                match theirs {
                    Some(theirs) => write!(f, "version {theirs} of the links' protocol, this node version {VERSION}")?,
                    None => write!(f, "another version of the links' protocol than this node, which speaks {VERSION}")?,
                }
                write!(f, "; hint: run the same version of the forwarder on both")
            }
            Self::Oversized => write!(
                f,
                "dropped: a message of more than {MESSAGE_BYTES} bytes, or a datagram of more than {DATAGRAM_BYTES}"
            ),
            Self::Failed => write!(f, "its task failed, which is a bug"),
        }
    }
}
