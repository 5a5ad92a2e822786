//! One link: its queue, its reader and its writer.
//!
//! The order of events of one peer is LinkUp, messages, LinkDown, whatever happens: a link waits for the end of the one that
//! it replaces. The side that called announces the link with the other's first message only: until then the other may still
//! refuse this node's certificate.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forwarder_common::ids::NodeId;
use quinn::{Connection, ConnectionError, ReadToEndError, RecvStream, VarInt, WriteError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};

use super::handshake::{Close, HANDSHAKE};
use super::{DATAGRAM_BYTES, Event, Shared, count, tls};
use crate::cluster::core::Kind;
use crate::cluster::wire::MESSAGE_BYTES;

/// Most messages waiting for one peer: 425,000 claims, 9 MB.
pub(super) const QUEUE_MESSAGES: usize = 8192;
/// A message that waited longer is worth less than the ones behind it: a tenth of the shortest lifetime.
const QUEUE_AGE: Duration = Duration::from_secs(3);
/// How long the better connection may take to be heard of, once the peer has closed this one for it.
const SUCCESSOR: Duration = Duration::from_secs(1);

/// A message that waits.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) message: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) at: Instant,
}

/// Why the mesh ends a link; a dropped sender is the end of the daemon.
#[derive(Debug)]
pub(super) enum Stop {
    /// Another connection takes its place.
    Replaced,
    /// The peer broke the protocol.
    Dropped(String),
}

/// How a link ended.
#[derive(Debug)]
pub(super) enum End {
    Closed(ConnectionError),
    Stopped,
    Replaced,
    Dropped(String),
    Silent,
    Oversized,
    Failed,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(error) => write!(f, "{error}"),
            Self::Stopped => write!(f, "this daemon ends"),
            Self::Replaced => write!(f, "replaced"),
            Self::Dropped(reason) => write!(f, "dropped: {reason}"),
            Self::Silent => write!(f, "no hello"),
            Self::Oversized => write!(
                f,
                "dropped: a message of more than {MESSAGE_BYTES} bytes, or a datagram of more than {DATAGRAM_BYTES}"
            ),
            Self::Failed => write!(f, "its task failed, which is a bug"),
        }
    }
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

/// Everything a link's task needs.
pub(super) struct Setup {
    pub(super) peer: NodeId,
    pub(super) id: u64,
    pub(super) connection: Connection,
    /// Whether this node called.
    pub(super) called: bool,
    pub(super) queue: mpsc::Receiver<Queued>,
    pub(super) stop: oneshot::Receiver<Stop>,
    /// The link that this one replaces; it tells whether the peer is announced.
    pub(super) previous: Option<JoinHandle<bool>>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) shared: Arc<Shared>,
    pub(super) ended: mpsc::UnboundedSender<Ended>,
}

/// Runs a link to its end; whether the peer is left announced, for the link that replaces this one.
pub(super) async fn run(mut setup: Setup) -> bool {
    let inherited = match setup.previous.take() {
        Some(previous) => previous.await.unwrap_or(false),
        None => false,
    };
    let (peer, id, connection) = (setup.peer, setup.id, setup.connection.clone());
    let (events, shared, ended) = (setup.events.clone(), Arc::clone(&setup.shared), setup.ended.clone());
    let announced = Arc::new(AtomicBool::new(false));
    // A panic below, be it the TLS library's, ends this link and nothing else.
    let end = tokio::spawn(work(setup, inherited, Arc::clone(&announced))).await.unwrap_or(End::Failed);
    let announced = announced.load(Ordering::Acquire);
    let close = match &end {
        End::Replaced => Close::Replaced,
        End::Dropped(_) | End::Oversized => Close::Protocol,
        End::Closed(_) | End::Stopped | End::Silent | End::Failed => Close::Ended,
    };
    close.apply(&connection, &end.to_string());
    shared.linked().retain(|node, held| *node != peer || held.stable_id() != connection.stable_id());
    if announced {
        count(&shared.counters.links_down);
    }
    if matches!(end, End::Replaced) {
        return announced || inherited;
    }
    if announced || inherited {
        // An error is the daemon's end: nobody is left to tell.
        let _ = events.send(Event::LinkDown { peer, reason: end.to_string(), leaving: is_leaving(&end) }).await;
    }
    let _ = ended.send(Ended { peer, id, end, announced });
    false
}

async fn work(mut setup: Setup, inherited: bool, announced: Arc<AtomicBool>) -> End {
    let mut readers = JoinSet::new();
    let (_keep, never) = oneshot::channel();
    let mut stop = std::mem::replace(&mut setup.stop, never);
    let end = tokio::select! {
        end = drive(&mut setup, inherited, &mut readers, &announced) => end,
        stop = &mut stop => match stop {
            Ok(Stop::Replaced) => End::Replaced,
            Ok(Stop::Dropped(reason)) => End::Dropped(reason),
            Err(_) => End::Stopped,
        },
    };
    let end = if closed_as_replaced(&end) { await_successor(&mut stop, end).await } else { end };
    // No message of this link may follow its end.
    readers.shutdown().await;
    setup.queue.close();
    while setup.queue.try_recv().is_ok() {
        setup.shared.counters.queued_messages.fetch_sub(1, Ordering::Relaxed);
    }
    end
}

/// The peer chose another connection, of which this side may hear a moment later.
fn closed_as_replaced(end: &End) -> bool {
    let replaced = VarInt::from_u32(Close::Replaced as u32);
    matches!(end, End::Closed(ConnectionError::ApplicationClosed(close)) if close.error_code == replaced)
}

/// The peer's daemon has said that it ends.
fn is_leaving(end: &End) -> bool {
    let ended = VarInt::from_u32(Close::Ended as u32);
    matches!(end, End::Closed(ConnectionError::ApplicationClosed(close)) if close.error_code == ended)
}

/// Waits for the connection that takes this one's place, so that the peer does not seem to be down in between.
async fn await_successor(stop: &mut oneshot::Receiver<Stop>, end: End) -> End {
    match timeout(SUCCESSOR, stop).await {
        Ok(Ok(Stop::Replaced)) => End::Replaced,
        _ => end,
    }
}

async fn drive(
    setup: &mut Setup,
    inherited: bool,
    readers: &mut JoinSet<Result<(), End>>,
    announced: &AtomicBool,
) -> End {
    let (peer, connection, events) = (setup.peer, setup.connection.clone(), setup.events.clone());
    let mut first = None;
    if setup.called {
        match timeout(HANDSHAKE, read_first(&connection)).await {
            Ok(Ok(bytes)) => first = Some(bytes),
            Ok(Err(end)) => return end,
            Err(_) => return End::Silent,
        }
    }
    let address: SocketAddr = connection.remote_address();
    announced.store(true, Ordering::Release);
    count(&setup.shared.counters.links_up);
    setup.shared.linked().insert(peer, connection.clone());
    if events.send(Event::LinkUp { peer, address, again: inherited }).await.is_err() {
        return End::Stopped;
    }
    let reading = async {
        let first = match first {
            Some(bytes) => bytes,
            None => read_first(&connection).await?,
        };
        events.send(Event::Message { peer, bytes: first }).await.map_err(|_| End::Stopped)?;
        tokio::select! {
            end = read_all(&connection, peer, &events, readers) => end,
            end = read_datagrams(&connection, peer, &events) => end,
        }
    };
    tokio::select! {
        Err(end) = reading => end,
        Err(end) = write_all(&connection, &mut setup.queue, &setup.shared) => end,
        else => End::Stopped,
    }
}

/// The first stream carries the hello and must not be overtaken.
async fn read_first(connection: &Connection) -> Result<Vec<u8>, End> {
    let stream = connection.accept_uni().await.map_err(End::Closed)?;
    read_one(stream).await?.ok_or(End::Silent)
}

/// Reads whole messages, many at once, in whatever order they complete.
async fn read_all(
    connection: &Connection,
    peer: NodeId,
    events: &mpsc::Sender<Event>,
    readers: &mut JoinSet<Result<(), End>>,
) -> Result<(), End> {
    loop {
        // A slow daemon slows its peers by QUIC's flow control: streams that are not accepted are not replaced.
        let room = readers.len() < tls::STREAMS as usize;
        tokio::select! {
            stream = connection.accept_uni(), if room => {
                let (stream, events) = (stream.map_err(End::Closed)?, events.clone());
                readers.spawn(async move {
                    if let Some(bytes) = read_one(stream).await? {
                        events.send(Event::Message { peer, bytes }).await.map_err(|_| End::Stopped)?;
                    }
                    Ok(())
                });
            }
            Some(read) = readers.join_next() => read.unwrap_or(Err(End::Failed))?,
        }
    }
}

/// What comes while the daemon is busy waits in QUIC's buffer, which drops the oldest when it is full.
async fn read_datagrams(connection: &Connection, peer: NodeId, events: &mpsc::Sender<Event>) -> Result<(), End> {
    loop {
        let bytes = connection.read_datagram().await.map_err(End::Closed)?;
        if bytes.len() > DATAGRAM_BYTES {
            return Err(End::Oversized);
        }
        events.send(Event::Datagram { peer, bytes: bytes.into() }).await.map_err(|_| End::Stopped)?;
    }
}

/// One message; `None` when the peer gave it up.
async fn read_one(mut stream: RecvStream) -> Result<Option<Vec<u8>>, End> {
    match stream.read_to_end(MESSAGE_BYTES).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ReadToEndError::TooLong) => Err(End::Oversized),
        Err(ReadToEndError::Read(_)) => Ok(None),
    }
}

async fn write_all(connection: &Connection, queue: &mut mpsc::Receiver<Queued>, shared: &Shared) -> Result<(), End> {
    while let Some(queued) = queue.recv().await {
        shared.counters.queued_messages.fetch_sub(1, Ordering::Relaxed);
        let mut stream = connection.open_uni().await.map_err(End::Closed)?;
        if queued.kind != Kind::Hello && queued.at.elapsed() > QUEUE_AGE {
            count(&shared.counters.dropped_messages);
            // The stream is not used and costs the peer nothing: give it up rather than wait for the next one.
            let _ = stream.reset(VarInt::from_u32(0));
            continue;
        }
        match stream.write_chunk(queued.message.into()).await {
            Err(WriteError::ConnectionLost(error)) => return Err(End::Closed(error)),
            // The peer gives it up, or the stream is at its end already: either way nothing is left to do for it.
            _ => drop(stream.finish()),
        }
    }
    Ok(())
}
