//! One link: from its announcement to its end.
//!
//! The order of events of one peer is LinkUp, messages, LinkDown, whatever happens: a link waits for the end of the one
//! that it replaces. A link is announced once both ends have said which version they speak. The side that called knows
//! by that as well that the other has not refused its certificate.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forwarder_common::ids::NodeId;
use forwarder_core::failover::timers::LINK_SUCCESSOR_US;
use quinn::{Connection, SendStream, VarInt, WriteError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::counts::{Linked, Shared, Traffic, count};
use super::end::{End, Ended, Stop};
use super::event::Event;
use super::handshake::HANDSHAKE;
use super::{opening, queue, read};

/// How long the better connection may take to be heard of, once the peer has closed this one for it.
const SUCCESSOR: Duration = Duration::from_micros(LINK_SUCCESSOR_US);

/// Everything a link's task needs.
pub(super) struct Setup {
    pub(super) peer: NodeId,
    pub(super) id: u64,
    pub(super) connection: Connection,
    pub(super) queue: queue::Receiver,
    pub(super) traffic: Arc<Traffic>,
    /// When the peer's certificate ends, in seconds since 1970.
    pub(super) expires_s: i64,
    /// The addresses that the peer's certificate names.
    pub(super) named: Vec<IpAddr>,
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
    end.apply(&connection);
    shared.linked().retain(|node, held| *node != peer || held.connection.stable_id() != connection.stable_id());
    if announced {
        count(&shared.counters.links_down);
    }
    if matches!(end, End::Replaced) {
        return announced || inherited;
    }
    if announced || inherited {
        // An error is the daemon's end: nobody is left to tell.
        let _ = events.send(Event::LinkDown { peer, reason: end.to_string(), end: end.says_of_peer() }).await;
    } else if matches!(end, End::Version { .. }) {
        let (address, reason) = (connection.remote_address(), end.to_string());
        // As above.
        let _ = events.send(Event::OtherVersion { peer, address, reason }).await;
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
        stop = &mut stop => stop.map_or(End::Stopped, End::from),
    };
    let end = if end.is_for_another() { await_successor(&mut stop, end).await } else { end };
    // No message of this link may follow its end.
    readers.shutdown().await;
    end
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
    match timeout(HANDSHAKE, opening::agree(&connection, peer)).await {
        Ok(Ok(())) => {}
        Ok(Err(end)) => return end,
        Err(_) => return End::Silent,
    }
    let address: SocketAddr = connection.remote_address();
    announced.store(true, Ordering::Release);
    count(&setup.shared.counters.links_up);
    let traffic = Arc::clone(&setup.traffic);
    let linked = Linked { connection: connection.clone(), traffic, expires_s: setup.expires_s };
    setup.shared.linked().insert(peer, linked);
    let named = std::mem::take(&mut setup.named);
    if events.send(Event::LinkUp { peer, address, named, again: inherited }).await.is_err() {
        return End::Stopped;
    }
    let reading = async {
        let bytes = timeout(HANDSHAKE, read::hello(&connection)).await.map_err(|_| End::Silent)??;
        events.send(Event::Message { peer, bytes }).await.map_err(|_| End::Stopped)?;
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
        // The stream first: while the peer takes no more, messages wait where they are bounded and counted.
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
