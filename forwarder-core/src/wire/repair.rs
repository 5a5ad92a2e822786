//! Anti-entropy: what should have arrived, and what has.

use super::bounds::PACKET_BYTES;
use super::bytes::Reader;
use super::error::WireError;

/// Bytes before the first range, version and kind of the message included.
const HEAD_BYTES: usize = 20;
const RANGE_BYTES: usize = 16;
/// Most ranges in one repair.
pub const REPAIR_RANGES: usize = (PACKET_BYTES - HEAD_BYTES) / RANGE_BYTES;
const MUST_ANSWER: u8 = 1;

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

impl Digest {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.settled.to_be_bytes());
        out.push(if self.must_answer { MUST_ANSWER } else { 0 });
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { settled: reader.u64()?, must_answer: reader.flag(MUST_ANSWER)? })
    }
}

impl Repair {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let count = self.missing.len().min(REPAIR_RANGES);
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.pieces.to_be_bytes());
        out.extend(self.below.to_be_bytes());
        out.extend((count as u16).to_be_bytes());
        for (from, to) in self.missing.iter().take(count) {
            out.extend(from.to_be_bytes());
            out.extend(to.to_be_bytes());
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (sequence, pieces, below) = (reader.u32()?, reader.u32()?, reader.u64()?);
        let count = reader.count(RANGE_BYTES)?;
        let missing = (0..count).map(|_| Ok((reader.u64()?, reader.u64()?))).collect::<Result<Vec<_>, WireError>>()?;
        if missing.iter().any(|(from, to)| from >= to) {
            return Err(WireError::Numbers);
        }
        Ok(Self { sequence, pieces, below, missing })
    }
}
