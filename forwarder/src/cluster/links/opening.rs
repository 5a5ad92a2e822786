//! What each end of a connection says before all else: which version of the links' protocol it speaks.
//!
//! The first byte of the first stream is the version, in every version. What follows it there is of later versions and
//! not read. A peer of another version has no link; what it is told with the end of the connection is this node's
//! version, because one end may hear of the other's close before it reads the other's first stream.

use forwarder_common::ids::NodeId;
use forwarder_core::wire::VERSION;
use quinn::{Connection, ConnectionError, ReadError, ReadExactError};

use super::end::End;

/// Exchanges versions; both ends speak the same one if there is no error.
pub(super) async fn agree(connection: &Connection, peer: NodeId) -> Result<(), End> {
    let ((), theirs) = tokio::try_join!(say(connection, peer), hear(connection, peer))?;
    if theirs == VERSION { Ok(()) } else { Err(End::Version { peer, theirs: Some(theirs) }) }
}

async fn say(connection: &Connection, peer: NodeId) -> Result<(), End> {
    let mut stream = connection.open_uni().await.map_err(|error| End::of_opening(peer, error))?;
    // An error is a peer that wants no more of it, or the end of the connection, of which `hear` tells.
    if stream.write_all(&[VERSION]).await.is_ok() {
        let _ = stream.finish();
    }
    Ok(())
}

async fn hear(connection: &Connection, peer: NodeId) -> Result<u8, End> {
    let lost = |error: ConnectionError| End::of_opening(peer, error);
    let mut stream = connection.accept_uni().await.map_err(lost)?;
    let mut version = [0];
    match stream.read_exact(&mut version).await {
        Ok(()) => Ok(u8::from_be_bytes(version)),
        Err(ReadExactError::ReadError(ReadError::ConnectionLost(error))) => Err(lost(error)),
        // The peer has ended the connection before it had anything to say.
        Err(_) => Err(End::Silent),
    }
}
