//! Claims as they travel.

use forwarder_common::ids::Epoch;

use super::bounds::{LIFETIME_MS, MESSAGE_BYTES, PACKET_BYTES};
use super::bytes::Reader;
use super::error::WireError;

/// Bytes before the first claim of a stretch, version and kind of the message included.
const HEAD_BYTES: usize = 17;
pub(super) const CLAIM_BYTES: usize = 21;
/// Most claims in one batch.
pub const BATCH_CLAIMS: usize = (PACKET_BYTES - HEAD_BYTES) / CLAIM_BYTES;
/// Most claims in one message of a snapshot.
pub const SNAPSHOT_CLAIMS: usize = (MESSAGE_BYTES - HEAD_BYTES) / CLAIM_BYTES;

/// A claim of the sender; whose it is follows from the link alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The key.
    pub key: u64,
    /// When it was claimed, in microseconds of the owner's Unix time.
    pub claimed_at_unix_us: u64,
    /// Remaining lifetime in milliseconds, 1..=[`LIFETIME_MS`].
    pub remaining_ms: u32,
    /// Which of the sender's words about this claim it is: 0 if it is new, else how often its end was changed, 255
    /// followed by 1. The later one counts.
    pub word: u8,
}

/// A stretch of the sender's claims: what is not here of those numbers counts no more, or under a higher number.
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

impl Claim {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.key.to_be_bytes());
        out.extend(self.claimed_at_unix_us.to_be_bytes());
        out.extend(self.remaining_ms.to_be_bytes());
        out.push(self.word);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (key, claimed_at_unix_us) = (reader.u64()?, reader.u64()?);
        let remaining_ms = reader.u32()?;
        if remaining_ms == 0 || u64::from(remaining_ms) > LIFETIME_MS {
            return Err(WireError::Lifetime(remaining_ms));
        }
        Ok(Self { key, claimed_at_unix_us, remaining_ms, word: reader.u8()? })
    }
}

impl Claims {
    /// At most the first `most` claims.
    pub(super) fn encode(&self, out: &mut Vec<u8>, most: usize) {
        let count = self.claims.len().min(most);
        out.reserve(HEAD_BYTES + count * CLAIM_BYTES);
        out.extend(self.first.to_be_bytes());
        out.extend(self.span.to_be_bytes());
        out.push(self.epoch.number());
        out.extend((count as u16).to_be_bytes());
        self.claims.iter().take(count).for_each(|claim| claim.encode(out));
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let first = reader.u64()?;
        let span = reader.u32()?;
        let epoch = reader.epoch()?;
        let count = reader.count(CLAIM_BYTES)?;
        // Each claim has a number of its own.
        if count > span as usize || first.checked_add(u64::from(span)).is_none() {
            return Err(WireError::Numbers);
        }
        let claims = (0..count).map(|_| Claim::decode(reader)).collect::<Result<_, _>>()?;
        Ok(Self { first, span, epoch, claims })
    }
}
