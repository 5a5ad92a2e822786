//! What is counted.

use serde::Serialize;

/// What the core counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CoreCounters {
    /// Claims of this node, new or changed.
    pub claims_local: u64,
    /// Claims of this node that end earlier because their INVITE has ended.
    pub claims_ended: u64,
    /// Copies of claims sent to peers, snapshots and answers included.
    pub claims_sent: u64,
    /// Claims received from peers, snapshots and answers included.
    pub claims_received: u64,
    /// Batches sent.
    pub batches_sent: u64,
    /// Batches received.
    pub batches_received: u64,
    /// Messages of snapshots sent.
    pub snapshots_sent: u64,
    /// Messages of snapshots received.
    pub snapshots_received: u64,
    /// Claims of this node that lost against a peer's, and were withdrawn.
    pub conflicts_lost: u64,
    /// Claims of peers that lost against one of this node.
    pub conflicts_won: u64,
    /// Of those, claims of keys that the peer must have known to be this node's, or that came when it had won as many
    /// as it may: this node has said its claim again, as made before all others.
    pub conflicts_asserted: u64,
    /// Claims that peers have withdrawn.
    pub claims_withdrawn: u64,
    /// Claims that were left to the digest because too many waited to be sent.
    pub claims_dropped: u64,
    /// Claims that made room for others before their end.
    pub claims_evicted: u64,
    /// Claims that found no place because their owner holds its share of a full store.
    pub claims_refused: u64,
    /// Claims received that were ineffective: of an epoch that is not live.
    pub claims_void: u64,
    /// Batches that overtook a hello and were not kept for it because too many were; the digest repairs them.
    pub batches_dropped: u64,
    /// Hellos that said something new too often, of which the last is heard a little later.
    pub hellos_deferred: u64,
    /// Digests sent.
    pub digests_sent: u64,
    /// Digests received.
    pub digests_received: u64,
    /// Requests for claims that have not arrived, sent.
    pub repairs_sent: u64,
    /// Requests for claims that have not arrived, received.
    pub repairs_received: u64,
    /// Messages that broke the protocol.
    pub protocol_errors: u64,
    /// Claims dated later than their arrival.
    pub claims_from_the_future: u64,
    /// Copies of asks sent to peers.
    pub asks_sent: u64,
    /// Asks of peers that were answered, be it with nothing.
    pub asks_answered: u64,
    /// Asks of this node that ended because a claim became effective, by an answer or by itself.
    pub asks_found: u64,
    /// Asks of this node that were not sent because too many were open, or there was no time for them.
    pub asks_overflow: u64,
    /// Asks of peers' kernel programs through the tunnel, because their daemons did not answer in time.
    pub asks_by_tunnel: u64,
    /// Datagrams of gossip received.
    pub datagrams_received: u64,
    /// Datagrams of gossip that were not looked at because their sender sent too many.
    pub datagrams_refused: u64,
    /// Asks of peers that were not answered because there were too many in a second, or the peer had used up its share
    /// of the time.
    pub asks_refused: u64,
}
