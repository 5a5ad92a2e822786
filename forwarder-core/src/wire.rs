//! The messages between daemons: bytes in, values out, and back.
//!
//! Everything is big-endian. A message is `version, kind, body`; one message is one uni-directional QUIC stream.
//!
//! | kind | body |
//! |---|---|
//! | 1 hello | the fixed head, then count of fields (1), then per field: type (1), length (2), value |
//! | 2 batch, 3 snapshot | first number (8), span (4), sequence of the last hello (4), count (2), then claims |
//! | 4 ask | count (2), then per ask: number (8), request key (8), reply key (8), 0 for none |
//! | 5 answer | count (2), then per answer: number of the ask (8), count of claims (1), claims |
//! | 6 digest | settled below (8), flags (1) |
//! | 7 repair | sequence of the hello (4), snapshots (4), complete below (8), count (2), ranges: from (8), to (8) |
//!
//! A claim is key (8), claimed at (8), remaining (4), kind of key (high 4 bits) and epoch (low 4 bits) (1), then its
//! number: in a batch or snapshot as the distance from the first number (2), in an answer as it is (8).
//!
//! The fixed head of a hello is incarnation (8), sequence (4), live epochs (2), state (1), next number (8), receiver's
//! incarnation (8), receiver's epochs (2), have below (8). A field of a type that the receiver does not know is
//! skipped.
//!
//! | type | value |
//! |---|---|
//! | 1 underlay | an address: family, 4 or 6 (1), then 4 or 16 bytes |
//! | 2 links | an address and port (2) |
//! | 3 services | per service: transport (1), affinity (1), address, port (2) |
//! | 4 must be equal | per value: what (1), hash (8) |
//! | 5 proxies | flags (1): 1 they are silent |
//!
//! A datagram is `kind, body`; one of a kind that the receiver does not know is skipped.
//!
//! | kind | body |
//! |---|---|
//! | 1 linked | per peer that the sender is linked with: node id (2), an address and port (2) |
//! | 2 leaves | |

mod asks;
mod bounds;
mod bytes;
mod claims;
mod error;
mod gossip;
mod hello;
mod repair;

use self::bytes::Reader;

pub use self::asks::{ANSWER_CLAIMS, Answer, Ask, MESSAGE_ANSWERS, MESSAGE_ASKS};
pub use self::bounds::{DATAGRAM_BYTES, LIFETIME_MS, MESSAGE_BYTES, PACKET_BYTES, VERSION};
pub use self::claims::{BATCH_CLAIMS, Claim, Claims, SNAPSHOT_CLAIMS, STRETCH_NUMBERS};
pub use self::error::WireError;
pub use self::gossip::{GOSSIP_PEERS, Gossip};
pub use self::hello::{HELLO_EQUALS, HELLO_SERVICES, Hello, MustEqual, Service};
pub use self::repair::{Digest, REPAIR_RANGES, Repair};

const HELLO: u8 = 1;
const BATCH: u8 = 2;
const SNAPSHOT: u8 = 3;
const ASK: u8 = 4;
const ANSWER: u8 = 5;
const DIGEST: u8 = 6;
const REPAIR: u8 = 7;

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
    /// The bytes of the message. What is beyond [`BATCH_CLAIMS`], [`SNAPSHOT_CLAIMS`], [`MESSAGE_ASKS`],
    /// [`MESSAGE_ANSWERS`], [`ANSWER_CLAIMS`] or [`REPAIR_RANGES`] is left out: callers send in chunks of that many.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.kind()];
        match self {
            Self::Hello(hello) => hello.encode(&mut out),
            Self::Batch(claims) => claims.encode(&mut out, BATCH_CLAIMS),
            Self::Snapshot(claims) => claims.encode(&mut out, SNAPSHOT_CLAIMS),
            Self::Ask(asks) => Ask::encode_all(asks, &mut out),
            Self::Answer(answers) => Answer::encode_all(answers, &mut out),
            Self::Digest(digest) => digest.encode(&mut out),
            Self::Repair(repair) => repair.encode(&mut out),
        }
        out
    }

    /// The message in `bytes`.
    ///
    /// # Errors
    /// The first thing that is wrong with them; no bytes make this function panic.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > MESSAGE_BYTES {
            return Err(WireError::Oversized);
        }
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let kind = reader.u8()?;
        if kind != SNAPSHOT && bytes.len() > PACKET_BYTES {
            return Err(WireError::Oversized);
        }
        let message = match kind {
            HELLO => Self::Hello(Hello::decode(&mut reader)?),
            BATCH => Self::Batch(Claims::decode(&mut reader)?),
            SNAPSHOT => Self::Snapshot(Claims::decode(&mut reader)?),
            ASK => Self::Ask(Ask::decode_all(&mut reader)?),
            ANSWER => Self::Answer(Answer::decode_all(&mut reader)?),
            DIGEST => Self::Digest(Digest::decode(&mut reader)?),
            REPAIR => Self::Repair(Repair::decode(&mut reader)?),
            kind => return Err(WireError::Kind(kind)),
        };
        if reader.left() == 0 { Ok(message) } else { Err(WireError::Length) }
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => HELLO,
            Self::Batch(_) => BATCH,
            Self::Snapshot(_) => SNAPSHOT,
            Self::Ask(_) => ASK,
            Self::Answer(_) => ANSWER,
            Self::Digest(_) => DIGEST,
            Self::Repair(_) => REPAIR,
        }
    }

    /// How many claims it carries.
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
