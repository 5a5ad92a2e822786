//! What a link reads: messages, one a stream, and datagrams.
//!
//! Each waits for the daemon, one message and one datagram of a peer at a time. A peer that sends faster than it is
//! heard is slowed by QUIC's flow control, and loses datagrams. How much it may send at all is the core's to say.

use std::sync::Arc;

use forwarder_common::ids::NodeId;
use quinn::{Connection, ReadError, ReadToEndError, RecvStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::end::End;
use super::event::Event;
use super::tls;
use forwarder_core::{node::DATAGRAM_BYTES, wire::MESSAGE_BYTES};

/// The stream behind the opening carries the hello, which must not be overtaken. It is empty, or given up, where the
/// peer has ended the link before it had anything to say.
pub(super) async fn hello(connection: &Connection) -> Result<Vec<u8>, End> {
    let stream = connection.accept_uni().await.map_err(End::Closed)?;
    one(stream).await.and_then(|bytes| if bytes.is_empty() { Err(End::Silent) } else { Ok(bytes) })
}

/// Reads whole messages, many at once, in whatever order they complete.
pub(super) async fn messages(
    connection: &Connection,
    peer: NodeId,
    events: &mpsc::Sender<Event>,
    readers: &mut JoinSet<Result<(), End>>,
) -> Result<(), End> {
    // One message of this peer at a time waits for the daemon: others' do not stand behind all of its.
    let turn = Arc::new(Mutex::new(()));
    loop {
        // A slow daemon slows its peers by QUIC's flow control: streams that are not accepted are not replaced.
        let room = readers.len() < tls::STREAMS as usize;
        tokio::select! {
            stream = connection.accept_uni(), if room => {
                let (stream, events, turn) = (stream.map_err(End::Closed)?, events.clone(), Arc::clone(&turn));
                readers.spawn(async move {
                    let bytes = one(stream).await?;
                    let _turn = turn.lock().await;
                    events.send(Event::Message { peer, bytes }).await.map_err(|_| End::Stopped)
                });
            }
            Some(read) = readers.join_next() => read.unwrap_or(Err(End::Failed))?,
        }
    }
}

/// What comes while the daemon is busy waits in QUIC's buffer, which drops the oldest when it is full.
pub(super) async fn datagrams(connection: &Connection, peer: NodeId, events: &mpsc::Sender<Event>) -> Result<(), End> {
    loop {
        let bytes = connection.read_datagram().await.map_err(End::Closed)?;
        if bytes.len() > DATAGRAM_BYTES {
            return Err(End::Oversized);
        }
        events.send(Event::Datagram { peer, bytes: bytes.into() }).await.map_err(|_| End::Stopped)?;
    }
}

/// One message; no bytes where the peer gave it up.
async fn one(mut stream: RecvStream) -> Result<Vec<u8>, End> {
    match stream.read_to_end(MESSAGE_BYTES).await {
        Ok(bytes) => Ok(bytes),
        Err(ReadToEndError::TooLong) => Err(End::Oversized),
        // The end of the link, which is nobody's breach.
        Err(ReadToEndError::Read(ReadError::ConnectionLost(error))) => Err(End::Closed(error)),
        Err(ReadToEndError::Read(_)) => Ok(Vec::new()),
    }
}
