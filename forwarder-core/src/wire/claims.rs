//! Claims as they travel.

use forwarder_common::ids::Epoch;
use forwarder_common::rest::Purpose;

use super::bounds::{LIFETIME_MS, MESSAGE_BYTES, PACKET_BYTES};
use super::bytes::Reader;
use super::error::WireError;

/// Bytes before the first claim of a stretch, version and kind of the message included.
const HEAD_BYTES: usize = 20;
/// Bytes of a claim without its number.
pub(super) const CLAIM_BYTES: usize = 21;
/// Bytes of a claim's number in a stretch: from the stretch's first one on.
const OFFSET_BYTES: usize = 2;
/// Most claims in one batch.
pub const BATCH_CLAIMS: usize = (PACKET_BYTES - HEAD_BYTES) / (CLAIM_BYTES + OFFSET_BYTES);
/// Most claims in one message of a snapshot.
pub const SNAPSHOT_CLAIMS: usize = (MESSAGE_BYTES - HEAD_BYTES) / (CLAIM_BYTES + OFFSET_BYTES);
/// Numbers of a stretch, from its first one on, that may have claims: what is beyond has none.
pub const STRETCH_NUMBERS: u64 = 1 << (8 * OFFSET_BYTES);

/// A claim of the sender; whose it is follows from the link alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The key.
    pub key: u64,
    /// When it was claimed, in microseconds of the owner's Unix time.
    pub claimed_at_unix_us: u64,
    /// Remaining lifetime in milliseconds, at most [`LIFETIME_MS`]; 0: its owner has withdrawn it.
    pub remaining_ms: u32,
    /// The epoch in which it was made.
    pub epoch: Epoch,
    /// What it was made for.
    pub purpose: Purpose,
    /// Its number among all that the sender has said of its claims: of two versions of a claim the one with the higher
    /// number counts.
    pub number: u64,
}

/// A stretch of the sender's claims: what is not here of those numbers counts no more, or under a higher number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The first number.
    pub first: u64,
    /// How many numbers.
    pub span: u32,
    /// The sequence of the sender's last hello: the receiver must have that to judge the claims' epochs.
    pub sequence: u32,
    /// The claims, each with a number of the first [`STRETCH_NUMBERS`] of the stretch.
    pub claims: Vec<Claim>,
}

impl Claim {
    /// All but its number.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.key.to_be_bytes());
        out.extend(self.claimed_at_unix_us.to_be_bytes());
        out.extend(self.remaining_ms.to_be_bytes());
        out.push(self.purpose.code() << 4 | self.epoch.number());
    }

    /// All but its number, which is 0.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (key, claimed_at_unix_us) = (reader.u64()?, reader.u64()?);
        let remaining_ms = reader.u32()?;
        if u64::from(remaining_ms) > LIFETIME_MS {
            return Err(WireError::Lifetime(remaining_ms));
        }
        let attributes = reader.u8()?;
        let (epoch, purpose) = (Epoch::new(u64::from(attributes)), Purpose::decode(attributes >> 4));
        Ok(Self { key, claimed_at_unix_us, remaining_ms, epoch, purpose, number: 0 })
    }
}

impl Claims {
    /// At most the first `most` claims.
    pub(super) fn encode(&self, out: &mut Vec<u8>, most: usize) {
        let count = self.claims.len().min(most);
        out.reserve(HEAD_BYTES + count * (CLAIM_BYTES + OFFSET_BYTES));
        out.extend(self.first.to_be_bytes());
        out.extend(self.span.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        out.extend((count as u16).to_be_bytes());
        for claim in self.claims.iter().take(count) {
            claim.encode(out);
            out.extend((claim.number.wrapping_sub(self.first) as u16).to_be_bytes());
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (first, span, sequence) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let count = reader.count(CLAIM_BYTES + OFFSET_BYTES)?;
        if first.checked_add(u64::from(span)).is_none() {
            return Err(WireError::Numbers);
        }
        let claim = |reader: &mut Reader<'_>| {
            let claim = Claim::decode(reader)?;
            let offset = reader.u16()?;
            if u32::from(offset) >= span {
                Err(WireError::Numbers)
            } else {
                Ok(Claim { number: first + u64::from(offset), ..claim })
            }
        };
        let claims = (0..count).map(|_| claim(reader)).collect::<Result<_, _>>()?;
        Ok(Self { first, span, sequence, claims })
    }
}
