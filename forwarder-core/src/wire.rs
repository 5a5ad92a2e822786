//! The messages between daemons: bytes in, values out, and back.
//!
//! Everything is big-endian. A message is `version, kind, body`; one message is one uni-directional QUIC stream.
//!
//! | kind | body |
//! |---|---|
//! | 1 hello | life (8), sequence (4), epoch (1), state (1), underlay: family 4 or 6 (1), address (4 or 16), links: family, address, port (2), next number (8), your life (8), your epoch or 255 (1), have below (8) |
//! | 2 batch, 3 snapshot | first number (8), span (4), epoch (1), count (2), then per claim: key (8), claimed at (8), remaining (4), word (1) |
//! | 4 ask | count (2), then per ask: number (8), request key (8), reply key (8), 0 for none |
//! | 5 answer | count (2), then per answer: number of the ask (8), epoch (1), count of claims (1), the claims as above |
//! | 6 digest | settled below (8), flags (1) |
//! | 7 repair | sequence of the hello (4), messages of snapshots (4), complete below (8), count (2), then per range: from (8), to (8) |

mod codec;
mod error;

use std::net::{IpAddr, SocketAddr};

use forwarder_common::ids::{Epoch, Tick};

use self::codec::{ANSWER_BYTES, ASK_BYTES, CLAIM_BYTES, CLAIMS_HEAD, HEAD_BYTES, RANGE_BYTES, REPAIR_HEAD};
pub use self::error::WireError;
use crate::node::State;

/// The protocol's version: a node drops the link of a peer that speaks another one.
pub const VERSION: u8 = 2;
/// Longest message in bytes, which only a snapshot may have: there is no hurry for one, and few large ones cost less.
pub const MESSAGE_BYTES: usize = 8192;
/// Longest message of any other kind in bytes: with QUIC's own headers it fits into one packet of 1,200 bytes, the least that any
/// path carries.
pub const PACKET_BYTES: usize = 1150;
/// Most claims in one batch.
pub const BATCH_CLAIMS: usize = (PACKET_BYTES - CLAIMS_HEAD) / CLAIM_BYTES;
/// Most claims in one message of a snapshot.
pub const SNAPSHOT_CLAIMS: usize = (MESSAGE_BYTES - CLAIMS_HEAD) / CLAIM_BYTES;
/// Most asks in one message.
pub const MESSAGE_ASKS: usize = (PACKET_BYTES - HEAD_BYTES) / ASK_BYTES;
/// Most answers in one message, each with all the claims that it may carry.
pub const MESSAGE_ANSWERS: usize = (PACKET_BYTES - HEAD_BYTES) / (ANSWER_BYTES + ANSWER_CLAIMS * CLAIM_BYTES);
/// Most claims in one answer: one for each key of the ask.
pub const ANSWER_CLAIMS: usize = 2;
/// Most ranges in one repair.
pub const REPAIR_RANGES: usize = (PACKET_BYTES - REPAIR_HEAD) / RANGE_BYTES;
/// Longest remaining lifetime in milliseconds (39 h): the kernel's clock of lifetimes reaches no further.
pub const LIFETIME_MS: u64 = Tick::milliseconds(Tick::LONGEST);

/// The first message on each link, and again when the sender's epoch or state changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// One run of the sender's daemon, at random: the numbers of its claims begin anew with each.
    pub life: u64,
    /// Rises with each hello of a life: they may overtake each other.
    pub sequence: u32,
    /// The sender's epoch: its claims of another epoch are void.
    pub epoch: Epoch,
    /// How the sender is.
    pub state: State,
    /// Where the sender takes encapsulated packets.
    pub underlay: IpAddr,
    /// Where the sender's links listen.
    pub listen: SocketAddr,
    /// The number of the sender's next claim.
    pub next: u64,
    /// The receiver's life that the sender knows; 0 for none.
    pub your_life: u64,
    /// The receiver's epoch when it was last heard of, in that life or in one before; `None`: it never was.
    pub your_epoch: Option<Epoch>,
    /// The sender has all that the receiver sent in that life below this number.
    pub have: u64,
}

/// A claim of the sender; whose it is follows from the link alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The key.
    pub key: u64,
    /// When it was claimed, in microseconds of the owner's Unix time.
    pub claimed_at_unix_us: u64,
    /// Remaining lifetime in milliseconds, 1..=[`LIFETIME_MS`].
    pub remaining_ms: u32,
    /// Which of the sender's words about this claim it is: 0 if it is new, else how often its end was changed, 255 followed by 1. The
    /// later one counts.
    pub word: u8,
}

/// A stretch of the sender's claims: what is not here of those numbers stands no more, or under a higher number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The first number.
    pub first: u64,
    /// How many numbers.
    pub span: u32,
    /// The epoch in which they were made.
    pub epoch: Epoch,
    /// The claims.
    pub claims: Vec<Claim>,
}

/// The question who owns a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The asker's number for it, which the answer repeats.
    pub number: u64,
    /// The request key.
    pub request_key: u64,
    /// The reply key; 0 for none.
    pub reply_key: u64,
}

/// What one node says to an ask, for itself alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The ask's number.
    pub number: u64,
    /// The epoch in which the claims were made.
    pub epoch: Epoch,
    /// The sender's own claims of the keys, at most [`ANSWER_CLAIMS`]; none: it owns nothing.
    pub claims: Vec<Claim>,
}

/// What should have arrived by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Everything below this number was sent a while ago.
    pub settled: u64,
    /// Answer with a repair even if nothing is missing.
    pub must_answer: bool,
}

/// What has arrived, and what has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The sequence of the receiver's last hello.
    pub sequence: u32,
    /// Messages of snapshots that came over this link.
    pub pieces: u32,
    /// Everything below this number has arrived.
    pub below: u64,
    /// Ranges of numbers to be sent again, the ends excluded, at most [`REPAIR_RANGES`].
    pub missing: Vec<(u64, u64)>,
}

/// A message between two daemons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who is there.
    Hello(Hello),
    /// Claims as they are made.
    Batch(Claims),
    /// Claims that were made before the link came up, or that were lost.
    Snapshot(Claims),
    /// Who owns these?
    Ask(Vec<Ask>),
    /// What the sender owns of what it was asked for.
    Answer(Vec<Answer>),
    /// What should have arrived.
    Digest(Digest),
    /// What has arrived.
    Repair(Repair),
}

impl Message {
    /// The bytes of the message. What is beyond [`BATCH_CLAIMS`], [`SNAPSHOT_CLAIMS`], [`MESSAGE_ASKS`], [`MESSAGE_ANSWERS`],
    /// [`ANSWER_CLAIMS`] or [`REPAIR_RANGES`] is left out: callers send in chunks of that many.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The message in `bytes`.
    ///
    /// # Errors
    /// The first thing that is wrong with them; no bytes make this function panic.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        codec::decode(bytes)
    }

    /// The claims that it carries.
    #[must_use]
    pub fn claims(&self) -> usize {
        match self {
            Self::Batch(claims) | Self::Snapshot(claims) => claims.claims.len(),
            Self::Answer(answers) => answers.iter().map(|answer| answer.claims.len()).sum(),
            Self::Hello(_) | Self::Ask(_) | Self::Digest(_) | Self::Repair(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests;
