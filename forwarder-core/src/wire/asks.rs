//! The question who owns a key, and its answers.

use super::bounds::PACKET_BYTES;
use super::bytes::Reader;
use super::claims::{CLAIM_BYTES, Claim};
use super::error::WireError;

/// Bytes before the first item of a message, version and kind included.
const HEAD_BYTES: usize = 4;
const ASK_BYTES: usize = 24;
/// Bytes of an answer without its claims.
const ANSWER_BYTES: usize = 9;
/// Bytes of a claim in an answer, with its whole number.
const ANSWERED_BYTES: usize = CLAIM_BYTES + 8;
/// Most asks in one message.
pub const MESSAGE_ASKS: usize = (PACKET_BYTES - HEAD_BYTES) / ASK_BYTES;
/// Most claims in one answer: one for each key of the ask.
pub const ANSWER_CLAIMS: usize = 2;
/// Most answers in one message, each with all the claims that it may carry.
pub const MESSAGE_ANSWERS: usize = (PACKET_BYTES - HEAD_BYTES) / (ANSWER_BYTES + ANSWER_CLAIMS * ANSWERED_BYTES);

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
    /// The sender's own claims of the keys, at most [`ANSWER_CLAIMS`]; none: it owns nothing.
    pub claims: Vec<Claim>,
}

impl Ask {
    /// At most [`MESSAGE_ASKS`].
    pub(super) fn encode_all(asks: &[Self], out: &mut Vec<u8>) {
        let count = asks.len().min(MESSAGE_ASKS);
        out.extend((count as u16).to_be_bytes());
        for ask in asks.iter().take(count) {
            out.extend(ask.number.to_be_bytes());
            out.extend(ask.request_key.to_be_bytes());
            out.extend(ask.reply_key.to_be_bytes());
        }
    }

    pub(super) fn decode_all(reader: &mut Reader<'_>) -> Result<Vec<Self>, WireError> {
        (0..reader.count(ASK_BYTES)?).map(|_| Self::decode(reader)).collect()
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { number: reader.u64()?, request_key: reader.u64()?, reply_key: reader.u64()? })
    }
}

impl Answer {
    /// At most [`MESSAGE_ANSWERS`], each with at most [`ANSWER_CLAIMS`] claims.
    pub(super) fn encode_all(answers: &[Self], out: &mut Vec<u8>) {
        let count = answers.len().min(MESSAGE_ANSWERS);
        out.extend((count as u16).to_be_bytes());
        for answer in answers.iter().take(count) {
            let claims = answer.claims.len().min(ANSWER_CLAIMS);
            out.extend(answer.number.to_be_bytes());
            out.push(claims as u8);
            for claim in answer.claims.iter().take(claims) {
                claim.encode(out);
                out.extend(claim.number.to_be_bytes());
            }
        }
    }

    pub(super) fn decode_all(reader: &mut Reader<'_>) -> Result<Vec<Self>, WireError> {
        let count = usize::from(reader.u16()?);
        if count > MESSAGE_ANSWERS || reader.left() < count * ANSWER_BYTES {
            return Err(WireError::Length);
        }
        (0..count).map(|_| Self::decode(reader)).collect()
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (number, count) = (reader.u64()?, reader.u8()?);
        if usize::from(count) > ANSWER_CLAIMS {
            return Err(WireError::Claims(count));
        }
        let claim = |reader: &mut Reader<'_>| {
            let claim = Claim::decode(reader)?;
            Ok(Claim { number: reader.u64()?, ..claim })
        };
        let claims = (0..count).map(|_| claim(reader)).collect::<Result<_, _>>()?;
        Ok(Self { number, claims })
    }
}
