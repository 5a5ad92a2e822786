//! From a QUIC handshake to a peer with an id, and who refused whom where it fails.

use std::time::Duration;

use forwarder_common::ids::NodeId;
use quinn::{Connecting, Connection, ConnectionError, TransportErrorCode, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::identity::peer_id;

/// A handshake that takes longer is given up.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);

/// Why a connection is closed, told to the peer as QUIC's application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Close {
    /// This daemon ends, or the link is of no use any more.
    Ended = 0,
    /// There is a better connection between the two.
    Replaced = 1,
    /// The certificate names no node of this cluster.
    Certificate = 2,
    /// Another host has the same node id.
    DuplicateNode = 3,
    /// The peer broke the protocol, just now or a little earlier.
    Protocol = 4,
}

impl Close {
    pub(super) fn apply(self, connection: &Connection, reason: &str) {
        connection.close(VarInt::from_u32(self as u32), reason.as_bytes());
    }
}

/// Why no link came of a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// This node refuses the other's certificate.
    Refused(String),
    /// The other refuses this node's.
    Unwelcome(String),
    /// Nobody answers, or not QUIC.
    Unreachable(String),
}

/// Completes a handshake; the peer's id is the one in its verified certificate.
pub(super) async fn finish(connecting: Connecting, cluster: &str) -> Result<(Connection, NodeId), Failure> {
    let connection = timeout(HANDSHAKE, connecting)
        .await
        .map_err(|_| Failure::Unreachable("the handshake does not end".to_owned()))?
        .map_err(|error| Failure::of(&error))?;
    let identity = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let peer = match identity.as_deref().and_then(|chain| chain.first()) {
        Some(certificate) => peer_id(certificate, cluster).map_err(|error| error.to_string()),
        None => Err("it shows no certificate".to_owned()),
    };
    match peer {
        Ok(peer) => Ok((connection, peer)),
        Err(reason) => {
            Close::Certificate.apply(&connection, &reason);
            Err(Failure::Refused(reason))
        }
    }
}

impl Failure {
    /// Which side a handshake failed on: TLS alerts are QUIC's error codes 0x100..=0x1ff (RFC 9001 §4.8).
    pub(super) fn of(error: &ConnectionError) -> Self {
        let alert = |code: TransportErrorCode| (0x100..0x200).contains(&u64::from(code));
        match error {
            ConnectionError::TransportError(error) if alert(error.code) => Self::Refused(error.to_string()),
            ConnectionError::ConnectionClosed(close) if alert(close.error_code) => Self::Unwelcome(close.to_string()),
            ConnectionError::ApplicationClosed(close) => Self::Unwelcome(close.to_string()),
            other => Self::Unreachable(other.to_string()),
        }
    }
}
