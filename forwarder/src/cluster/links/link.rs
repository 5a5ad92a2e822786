//! One link: from its announcement to its end.
//!
//! The order of events of one peer is LinkUp, messages, LinkDown, whatever happens: a link waits for the end of the one
//! that it replaces. The side that called announces the link with the other's first message only: until then the other
//! may still refuse this node's certificate.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forwarder_common::ids::NodeId;
use quinn::{Connection, ConnectionError, SendStream, VarInt, WriteError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::counts::{Linked, Shared, Traffic, count};
use super::handshake::{Close, HANDSHAKE};
use super::{DATAGRAM_BYTES, Event, queue, read};
use forwarder_core::{
    failover::{LinkEnd, timers::LINK_SUCCESSOR_US},
    wire::MESSAGE_BYTES,
};

/// How long the better connection may take to be heard of, once the peer has closed this one for it.
const SUCCESSOR: Duration = Duration::from_micros(LINK_SUCCESSOR_US);

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

impl End {
    /// The peer broke the protocol.
    pub(super) const fn is_breach(&self) -> bool {
        matches!(self, Self::Dropped(_) | Self::Oversized | Self::Flood)
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
    pub(super) queue: queue::Receiver,
    pub(super) traffic: Arc<Traffic>,
    /// When the peer's certificate ends, in seconds since 1970.
    pub(super) expires_s: i64,
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
        End::Untrusted(_) => Close::Certificate,
        end if end.is_breach() => Close::Protocol,
        End::Closed(_) | End::Stopped | End::Dropped(_) | End::Silent | End::Oversized | End::Flood | End::Failed => {
            Close::Ended
        }
    };
    close.apply(&connection, &end.to_string());
    shared.linked().retain(|node, held| *node != peer || held.connection.stable_id() != connection.stable_id());
    if announced {
        count(&shared.counters.links_down);
    }
    if matches!(end, End::Replaced) {
        return announced || inherited;
    }
    if announced || inherited {
        // An error is the daemon's end: nobody is left to tell.
        let _ = events.send(Event::LinkDown { peer, reason: end.to_string(), end: says_of_peer(&end) }).await;
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
            Ok(Stop::Untrusted(reason)) => End::Untrusted(reason),
            Err(_) => End::Stopped,
        },
    };
    let end = if closed_as_replaced(&end) { await_successor(&mut stop, end).await } else { end };
    // No message of this link may follow its end.
    readers.shutdown().await;
    end
}

/// The peer chose another connection, of which this side may hear a moment later.
fn closed_as_replaced(end: &End) -> bool {
    let replaced = VarInt::from_u32(Close::Replaced as u32);
    matches!(end, End::Closed(ConnectionError::ApplicationClosed(close)) if close.error_code == replaced)
}

fn says_of_peer(end: &End) -> LinkEnd {
    let ended = VarInt::from_u32(Close::Ended as u32);
    match end {
        End::Closed(ConnectionError::ApplicationClosed(close)) if close.error_code == ended => LinkEnd::Leaving,
        End::Closed(ConnectionError::Reset) => LinkEnd::Well,
        // It has another link to this node, of which this side has not heard in time.
        end if closed_as_replaced(end) => LinkEnd::Well,
        End::Closed(ConnectionError::TimedOut) => LinkEnd::Silent,
        End::Closed(_)
        | End::Stopped
        | End::Replaced
        | End::Dropped(_)
        | End::Untrusted(_)
        | End::Silent
        | End::Oversized
        | End::Flood
        | End::Failed => LinkEnd::Gone,
    }
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
    readers: &mut JoinSet<Result<bool, End>>,
    announced: &AtomicBool,
) -> End {
    let (peer, connection, events) = (setup.peer, setup.connection.clone(), setup.events.clone());
    let mut first = None;
    if setup.called {
        match timeout(HANDSHAKE, read::first(&connection)).await {
            Ok(Ok(bytes)) => first = Some(bytes),
            Ok(Err(end)) => return end,
            Err(_) => return End::Silent,
        }
    }
    let address: SocketAddr = connection.remote_address();
    announced.store(true, Ordering::Release);
    count(&setup.shared.counters.links_up);
    let traffic = Arc::clone(&setup.traffic);
    let linked = Linked { connection: connection.clone(), traffic, expires_s: setup.expires_s };
    setup.shared.linked().insert(peer, linked);
    if events.send(Event::LinkUp { peer, address, again: inherited }).await.is_err() {
        return End::Stopped;
    }
    let reading = async {
        let first = match first {
            Some(bytes) => bytes,
            None => timeout(HANDSHAKE, read::first(&connection)).await.map_err(|_| End::Silent)??,
        };
        events.send(Event::Message { peer, bytes: first }).await.map_err(|_| End::Stopped)?;
        tokio::select! {
            end = read::messages(&connection, peer, &events, readers) => end,
            end = read::datagrams(&connection, peer, &events) => end,
        }
    };
    tokio::select! {
        Err(end) = reading => end,
        Err(end) = write_all(&connection, &mut setup.queue) => end,
        else => End::Stopped,
    }
}

async fn write_all(connection: &Connection, queue: &mut queue::Receiver) -> Result<(), End> {
    loop {
        // The stream first: while the peer takes no more, messages wait where they grow old and are counted.
        let mut stream = Unfinished(Some(connection.open_uni().await.map_err(End::Closed)?));
        // A queue without a sender is the mesh's doing, which says why by itself.
        let Some(message) = queue.pop().await else { return std::future::pending().await };
        let Some(writer) = &mut stream.0 else { continue };
        match writer.write_chunk(message.into()).await {
            Err(WriteError::ConnectionLost(error)) => return Err(End::Closed(error)),
            // The peer gives it up, or the stream is at its end already: either way nothing is left to do for it.
            _ => drop(stream.0.take().map(|mut whole| whole.finish())),
        }
    }
}

/// A stream whose message is not written yet. Where the link ends before it is, the peer must not take what there is
/// for the whole, as a stream would say that is only dropped.
struct Unfinished(Option<SendStream>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.0 {
            // An error is a stream that has ended already.
            let _ = stream.reset(VarInt::from_u32(0));
        }
    }
}
