//! What a link reads: messages, one a stream, and datagrams; and where a peer sends more than any honest one does.

use std::sync::Arc;

use forwarder_common::ids::NodeId;
use quinn::{Connection, ReadToEndError, RecvStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::end::End;
use super::event::Event;
use super::tls;
use forwarder_core::{node::DATAGRAM_BYTES, wire::MESSAGE_BYTES};

/// Messages a second for as long as one likes: five times the batches of 100,000 claims/s at the shortest pause.
const MESSAGES_A_SECOND: u32 = 50_000;
/// Messages at once: a snapshot of the largest table.
const MESSAGES_AT_ONCE: u32 = 500_000;
/// A stream that is given up or empty weighs as many messages: an honest peer has few.
const RUBBISH: u32 = 100;
/// Datagrams a second for as long as one likes: membership of a thousand nodes sends a tenth.
const DATAGRAMS_A_SECOND: u32 = 1000;
/// Datagrams at once.
const DATAGRAMS_AT_ONCE: u32 = 4000;

/// The stream behind the opening carries the hello, which must not be overtaken. It is empty, or given up, where the
/// peer has ended the link before it had anything to say.
pub(super) async fn hello(connection: &Connection) -> Result<Vec<u8>, End> {
    let stream = connection.accept_uni().await.map_err(End::Closed)?;
    one(stream).await?.filter(|bytes| !bytes.is_empty()).ok_or(End::Silent)
}

/// Reads whole messages, many at once, in whatever order they complete.
pub(super) async fn messages(
    connection: &Connection,
    peer: NodeId,
    events: &mpsc::Sender<Event>,
    readers: &mut JoinSet<Result<bool, End>>,
) -> Result<(), End> {
    let mut budget = Budget::new(MESSAGES_A_SECOND, MESSAGES_AT_ONCE);
    // One message of this peer at a time waits for the daemon: others' do not stand behind all of its.
    let turn = Arc::new(Mutex::new(()));
    loop {
        // A slow daemon slows its peers by QUIC's flow control: streams that are not accepted are not replaced.
        let room = readers.len() < tls::STREAMS as usize;
        tokio::select! {
            stream = connection.accept_uni(), if room => {
                let (stream, events, turn) = (stream.map_err(End::Closed)?, events.clone(), Arc::clone(&turn));
                readers.spawn(async move {
                    let Some(bytes) = one(stream).await?.filter(|bytes| !bytes.is_empty()) else { return Ok(false) };
                    let _turn = turn.lock().await;
                    events.send(Event::Message { peer, bytes }).await.map_err(|_| End::Stopped)?;
                    Ok(true)
                });
            }
            Some(read) = readers.join_next() => {
                let is_message = read.unwrap_or(Err(End::Failed))?;
                budget.spend(if is_message { 1 } else { RUBBISH }, Instant::now())?;
            }
        }
    }
}

/// What comes while the daemon is busy waits in QUIC's buffer, which drops the oldest when it is full.
pub(super) async fn datagrams(connection: &Connection, peer: NodeId, events: &mpsc::Sender<Event>) -> Result<(), End> {
    let mut budget = Budget::new(DATAGRAMS_A_SECOND, DATAGRAMS_AT_ONCE);
    loop {
        let bytes = connection.read_datagram().await.map_err(End::Closed)?;
        if bytes.len() > DATAGRAM_BYTES {
            return Err(End::Oversized);
        }
        budget.spend(1, Instant::now())?;
        events.send(Event::Datagram { peer, bytes: bytes.into() }).await.map_err(|_| End::Stopped)?;
    }
}

/// One message; `None` when the peer gave it up.
async fn one(mut stream: RecvStream) -> Result<Option<Vec<u8>>, End> {
    match stream.read_to_end(MESSAGE_BYTES).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ReadToEndError::TooLong) => Err(End::Oversized),
        Err(ReadToEndError::Read(_)) => Ok(None),
    }
}

/// A token bucket.
struct Budget {
    a_second: f64,
    at_once: f64,
    left: f64,
    at: Instant,
}

impl Budget {
    fn new(a_second: u32, at_once: u32) -> Self {
        Self { a_second: a_second.into(), at_once: at_once.into(), left: at_once.into(), at: Instant::now() }
    }

    fn spend(&mut self, tokens: u32, now: Instant) -> Result<(), End> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * self.a_second).min(self.at_once) - f64::from(tokens);
        if self.left < 0.0 { Err(End::Flood) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_budget_allows_its_burst_and_its_rate_and_no_more() {
        let mut budget = Budget::new(10, 100);
        let start = budget.at;
        assert!((0..100).all(|_| budget.spend(1, start).is_ok()));
        assert!(budget.spend(1, start).is_err());
        let mut budget = Budget::new(10, 100);
        // For an hour at its rate, and then at twice that until the burst is used up.
        assert!((1..36_000).all(|n| budget.spend(1, start + Duration::from_millis(100) * n).is_ok()));
        let later = |n| start + Duration::from_secs(3600) + Duration::from_millis(50) * n;
        let allowed = (1..1000).take_while(|n| budget.spend(1, later(*n)).is_ok()).count();
        assert!((190..=210).contains(&allowed), "{allowed}");
    }
}
