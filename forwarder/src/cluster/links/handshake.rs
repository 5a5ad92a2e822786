//! From a QUIC handshake to a peer with an id, and who refused whom where it fails.

use std::time::Duration;

use forwarder_common::ids::NodeId;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connecting, Connection, ConnectionError, TransportErrorCode, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::foreign::Foreign;
use crate::identity::{Identity, Peer};

/// A handshake that takes longer is given up.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// Why a connection is closed, told to the peer as QUIC's application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Close {
    /// This daemon ends, or the link is of no use any more.
    Ended = 0,
    /// There is a better connection between the two.
    Replaced = 1,
    /// The certificate names no node of this cluster, is denied, or has ended.
    Certificate = 2,
    /// Another host has the same node id.
    DuplicateNode = 3,
    /// The peer broke the protocol, just now or a little earlier.
    Protocol = 4,
    /// Another node was called.
    OtherNode = 5,
    /// The two speak different versions of the protocol; the reason says which one the closing end speaks.
    Version = 6,
}

/// TLS' alert that the two have no protocol in common (RFC 7301 §3.2), as QUIC tells it (RFC 9001 §4.8).
const NO_PROTOCOL: u64 = 0x100 + 120;

/// The server name in calls of whoever answers; nobody checks it.
const ANYBODY: &str = "forwarder";
/// What stands before the id in calls of one node.
const NODE: &str = "node-";

/// A connection whose other end is a node of this cluster.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) connection: Connection,
    pub(super) peer: Peer,
    pub(super) chain: Vec<CertificateDer<'static>>,
}

impl Close {
    pub(super) fn apply(self, connection: &Connection, reason: &str) {
        connection.close(VarInt::from_u32(self as u32), reason.as_bytes());
    }
}

/// The server name in a call of `peer`. The node that answers goes by it: one that was told a wrong address must not
/// take the place of its own link to the node that is there.
pub(super) fn server_name(peer: Option<NodeId>) -> String {
    peer.map_or_else(|| ANYBODY.to_owned(), |peer| format!("{NODE}{}", peer.number()))
}

/// The node that the other end wants, where that end called and wants a certain one.
fn wanted(connection: &Connection) -> Option<NodeId> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    data.server_name?.strip_prefix(NODE)?.parse().ok().and_then(NodeId::new)
}

/// Why no link came of a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// This node refuses the other's certificate.
    Refused(Foreign),
    /// The other refuses this node's.
    Unwelcome(Foreign),
    /// The other speaks another protocol on the links.
    OtherProtocol,
    /// The other has called another node than this one.
    Misdirected(NodeId),
    /// Nobody answers, or not QUIC.
    Unreachable(Foreign),
}

/// Completes a handshake; the peer's id is the one in its verified certificate.
pub(super) async fn finish(connecting: Connecting, identity: &Identity) -> Result<Verified, Failure> {
    let connection = timeout(HANDSHAKE, connecting)
        .await
        .map_err(|_| Failure::Unreachable(Foreign::new("the handshake does not end")))?
        .map_err(|error| Failure::of(&error))?;
    if let Some(wanted) = wanted(&connection).filter(|wanted| *wanted != identity.node) {
        Close::OtherNode.apply(&connection, "another node was called");
        return Err(Failure::Misdirected(wanted));
    }
    let shown = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let chain = shown.map(|chain| *chain).unwrap_or_default();
    match identity.admit(&chain) {
        Ok(peer) => Ok(Verified { connection, peer, chain }),
        Err(reason) => {
            Close::Certificate.apply(&connection, &reason);
            Err(Failure::Refused(Foreign::new(reason)))
        }
    }
}

impl Failure {
    /// Which side a handshake failed on: TLS alerts are QUIC's error codes 0x100..=0x1ff (RFC 9001 §4.8).
    pub(super) fn of(error: &ConnectionError) -> Self {
        let alert = |code: TransportErrorCode| (0x100..0x200).contains(&u64::from(code));
        match error {
            ConnectionError::TransportError(error) if u64::from(error.code) == NO_PROTOCOL => Self::OtherProtocol,
            ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == NO_PROTOCOL => {
                Self::OtherProtocol
            }
            // The same in the words of QUIC itself (RFC 9000 §6).
            ConnectionError::VersionMismatch => Self::OtherProtocol,
            ConnectionError::TransportError(error) if alert(error.code) => Self::Refused(Foreign::new(error)),
            ConnectionError::ConnectionClosed(close) if alert(close.error_code) => Self::Unwelcome(Foreign::new(close)),
            ConnectionError::ApplicationClosed(close) => Self::Unwelcome(Foreign::new(close)),
            other @ (ConnectionError::TransportError(_)
            | ConnectionError::ConnectionClosed(_)
            | ConnectionError::Reset
            | ConnectionError::TimedOut
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted) => Self::Unreachable(Foreign::new(other)),
        }
    }
}
