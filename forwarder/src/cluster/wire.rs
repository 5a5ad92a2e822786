//! The messages between daemons: bytes in, values out, and back.
//!
//! Everything is big-endian. A message is `version, kind, body`; one message is one uni-directional QUIC stream.
//!
//! | kind | body |
//! |---|---|
//! | 1 hello | epoch (1), state (1), underlay: family 4 or 6 (1), address (4 or 16), links: family, address, port (2) |
//! | 2 batch, 3 snapshot | count (2), then per claim: key (8), claimed at (8), remaining (4), epoch (1), flags (1) |
//! | 4 ask | count (2), then per ask: number (8), request key (8), reply key (8), 0 for none |
//! | 5 answer | count (2), then per answer: number of the ask (8), count of claims (1), the claims as above |

mod error;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use forwarder_common::ids::{Epoch, Tick};

pub use self::error::WireError;
use super::core::State;

/// The protocol's version: a node drops the link of a peer that speaks another one.
pub const VERSION: u8 = 2;
/// Longest message in bytes: with QUIC's own headers it fits into one packet of 1,200 bytes, the least that any path carries.
pub const MESSAGE_BYTES: usize = 1150;
/// Most claims in one message.
pub const MESSAGE_CLAIMS: usize = (MESSAGE_BYTES - HEAD_BYTES) / CLAIM_BYTES;
/// Most asks in one message.
pub const MESSAGE_ASKS: usize = (MESSAGE_BYTES - HEAD_BYTES) / ASK_BYTES;
/// Most answers in one message, each with all the claims that it may carry.
pub const MESSAGE_ANSWERS: usize = (MESSAGE_BYTES - HEAD_BYTES) / (ANSWER_BYTES + ANSWER_CLAIMS * CLAIM_BYTES);
/// Most claims in one answer: one for each key of the ask.
pub const ANSWER_CLAIMS: usize = 2;
/// Longest remaining lifetime in milliseconds (39 h): the kernel's clock of lifetimes reaches no further.
pub const LIFETIME_MS: u64 = Tick::milliseconds(Tick::LONGEST);

const HEAD_BYTES: usize = 4;
const CLAIM_BYTES: usize = 22;
const ASK_BYTES: usize = 24;
const ANSWER_BYTES: usize = 9;
const HELLO: u8 = 1;
const BATCH: u8 = 2;
const SNAPSHOT: u8 = 3;
const ASK: u8 = 4;
const ANSWER: u8 = 5;
const REFRESH: u8 = 1;

/// The first message on each link, and again when the sender's epoch or state changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The sender's epoch: its claims of another epoch are void.
    pub epoch: Epoch,
    /// How the sender is.
    pub state: State,
    /// Where the sender takes encapsulated packets.
    pub underlay: IpAddr,
    /// Where the sender's links listen.
    pub listen: SocketAddr,
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
    /// The epoch in which it was made.
    pub epoch: Epoch,
    /// The sender made this claim before and lengthens it now.
    pub refresh: bool,
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
    /// The sender's own claims of the keys, at most [`ANSWER_CLAIMS`]; none: it owns nothing.
    pub claims: Vec<Claim>,
}

/// A message between two daemons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who is there.
    Hello(Hello),
    /// Claims as they are made.
    Batch(Vec<Claim>),
    /// Claims that stood already when the link came up.
    Snapshot(Vec<Claim>),
    /// Who owns these?
    Ask(Vec<Ask>),
    /// What the sender owns of what it was asked for.
    Answer(Vec<Answer>),
}

impl Message {
    /// The bytes of the message. What is beyond [`MESSAGE_CLAIMS`], [`MESSAGE_ASKS`], [`MESSAGE_ANSWERS`] or [`ANSWER_CLAIMS`] is
    /// left out: callers send in chunks of that many.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => encode_hello(hello),
            Self::Batch(claims) => encode_claims(BATCH, claims),
            Self::Snapshot(claims) => encode_claims(SNAPSHOT, claims),
            Self::Ask(asks) => encode_asks(asks),
            Self::Answer(answers) => encode_answers(answers),
        }
    }

    /// The message in `bytes`.
    ///
    /// # Errors
    /// The first thing that is wrong with them; no bytes make this function panic.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > MESSAGE_BYTES {
            return Err(WireError::Oversized);
        }
        let mut reader = Reader(bytes);
        let version = reader.byte()?;
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let message = match reader.byte()? {
            HELLO => Self::Hello(decode_hello(&mut reader)?),
            BATCH => Self::Batch(decode_claims(&mut reader)?),
            SNAPSHOT => Self::Snapshot(decode_claims(&mut reader)?),
            ASK => Self::Ask(decode_asks(&mut reader)?),
            ANSWER => Self::Answer(decode_answers(&mut reader)?),
            kind => return Err(WireError::Kind(kind)),
        };
        if reader.0.is_empty() { Ok(message) } else { Err(WireError::Length) }
    }
}

fn encode_hello(hello: &Hello) -> Vec<u8> {
    let mut out = vec![VERSION, HELLO, hello.epoch.number(), state_number(hello.state)];
    encode_address(&mut out, hello.underlay);
    encode_address(&mut out, hello.listen.ip());
    out.extend(hello.listen.port().to_be_bytes());
    out
}

fn encode_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            out.push(4);
            out.extend(address.octets());
        }
        IpAddr::V6(address) => {
            out.push(6);
            out.extend(address.octets());
        }
    }
}

const fn state_number(state: State) -> u8 {
    match state {
        State::Joining => 0,
        State::Up => 1,
        State::Draining => 2,
        State::ProxyDown => 3,
    }
}

const fn state(number: u8) -> Result<State, WireError> {
    match number {
        0 => Ok(State::Joining),
        1 => Ok(State::Up),
        2 => Ok(State::Draining),
        3 => Ok(State::ProxyDown),
        number => Err(WireError::State(number)),
    }
}

fn encode_claims(kind: u8, claims: &[Claim]) -> Vec<u8> {
    let count = claims.len().min(MESSAGE_CLAIMS);
    let mut out = Vec::with_capacity(HEAD_BYTES + count * CLAIM_BYTES);
    out.extend([VERSION, kind]);
    out.extend((count as u16).to_be_bytes());
    claims.iter().take(count).for_each(|claim| encode_claim(&mut out, claim));
    out
}

fn encode_claim(out: &mut Vec<u8>, claim: &Claim) {
    out.extend(claim.key.to_be_bytes());
    out.extend(claim.claimed_at_unix_us.to_be_bytes());
    out.extend(claim.remaining_ms.to_be_bytes());
    out.push(claim.epoch.number());
    out.push(if claim.refresh { REFRESH } else { 0 });
}

fn encode_asks(asks: &[Ask]) -> Vec<u8> {
    let count = asks.len().min(MESSAGE_ASKS);
    let mut out = Vec::with_capacity(HEAD_BYTES + count * ASK_BYTES);
    out.extend([VERSION, ASK]);
    out.extend((count as u16).to_be_bytes());
    for ask in asks.iter().take(count) {
        out.extend(ask.number.to_be_bytes());
        out.extend(ask.request_key.to_be_bytes());
        out.extend(ask.reply_key.to_be_bytes());
    }
    out
}

fn encode_answers(answers: &[Answer]) -> Vec<u8> {
    let count = answers.len().min(MESSAGE_ANSWERS);
    let mut out = vec![VERSION, ANSWER];
    out.extend((count as u16).to_be_bytes());
    for answer in answers.iter().take(count) {
        let claims = answer.claims.len().min(ANSWER_CLAIMS);
        out.extend(answer.number.to_be_bytes());
        out.push(claims as u8);
        answer.claims.iter().take(claims).for_each(|claim| encode_claim(&mut out, claim));
    }
    out
}

fn decode_hello(reader: &mut Reader<'_>) -> Result<Hello, WireError> {
    let epoch = reader.epoch()?;
    let state = state(reader.byte()?)?;
    let underlay = reader.address()?;
    let listen = SocketAddr::new(reader.address()?, u16::from_be_bytes(reader.array()?));
    Ok(Hello { epoch, state, underlay, listen })
}

fn decode_claims(reader: &mut Reader<'_>) -> Result<Vec<Claim>, WireError> {
    let count = usize::from(u16::from_be_bytes(reader.array()?));
    // Checked before anything is allocated for them.
    if reader.0.len() != count * CLAIM_BYTES {
        return Err(WireError::Length);
    }
    (0..count).map(|_| decode_claim(reader)).collect()
}

fn decode_claim(reader: &mut Reader<'_>) -> Result<Claim, WireError> {
    let key = u64::from_be_bytes(reader.array()?);
    let claimed_at_unix_us = u64::from_be_bytes(reader.array()?);
    let remaining_ms = u32::from_be_bytes(reader.array()?);
    if remaining_ms == 0 || u64::from(remaining_ms) > LIFETIME_MS {
        return Err(WireError::Lifetime(remaining_ms));
    }
    let epoch = reader.epoch()?;
    let flags = reader.byte()?;
    if flags & !REFRESH != 0 {
        return Err(WireError::Flags(flags));
    }
    Ok(Claim { key, claimed_at_unix_us, remaining_ms, epoch, refresh: flags & REFRESH != 0 })
}

fn decode_asks(reader: &mut Reader<'_>) -> Result<Vec<Ask>, WireError> {
    let count = usize::from(u16::from_be_bytes(reader.array()?));
    if reader.0.len() != count * ASK_BYTES {
        return Err(WireError::Length);
    }
    let mut number = || reader.array().map(u64::from_be_bytes);
    (0..count).map(|_| Ok(Ask { number: number()?, request_key: number()?, reply_key: number()? })).collect()
}

fn decode_answers(reader: &mut Reader<'_>) -> Result<Vec<Answer>, WireError> {
    let count = usize::from(u16::from_be_bytes(reader.array()?));
    if count > MESSAGE_ANSWERS || reader.0.len() < count * ANSWER_BYTES {
        return Err(WireError::Length);
    }
    (0..count).map(|_| decode_answer(reader)).collect()
}

fn decode_answer(reader: &mut Reader<'_>) -> Result<Answer, WireError> {
    let number = u64::from_be_bytes(reader.array()?);
    let count = reader.byte()?;
    if usize::from(count) > ANSWER_CLAIMS {
        return Err(WireError::Claims(count));
    }
    let claims = (0..count).map(|_| decode_claim(reader)).collect::<Result<_, _>>()?;
    Ok(Answer { number, claims })
}

/// What of a message is not read yet.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(WireError::Length)?;
        self.0 = tail;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn address(&mut self) -> Result<IpAddr, WireError> {
        match self.byte()? {
            4 => Ok(IpAddr::V4(Ipv4Addr::from(self.array::<4>()?))),
            6 => Ok(IpAddr::V6(Ipv6Addr::from(self.array::<16>()?))),
            family => Err(WireError::Family(family)),
        }
    }

    fn epoch(&mut self) -> Result<Epoch, WireError> {
        let number = self.byte()?;
        if number > 15 { Err(WireError::Epoch(number)) } else { Ok(Epoch::new(u64::from(number))) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claims(most: usize) -> impl Strategy<Value = Vec<Claim>> {
        let claim = (any::<u64>(), any::<u64>(), 1..=LIFETIME_MS as u32, 0..16_u64, any::<bool>()).prop_map(
            |(key, claimed_at_unix_us, remaining_ms, epoch, refresh)| Claim {
                key,
                claimed_at_unix_us,
                remaining_ms,
                epoch: Epoch::new(epoch),
                refresh,
            },
        );
        proptest::collection::vec(claim, 0..=most)
    }

    fn messages() -> impl Strategy<Value = Message> {
        let ask = any::<(u64, u64, u64)>().prop_map(|(number, l, x)| Ask { number, request_key: l, reply_key: x });
        let answer = (any::<u64>(), claims(ANSWER_CLAIMS)).prop_map(|(number, claims)| Answer { number, claims });
        prop_oneof![
            (0..16_u64, 0..4_u8, any::<IpAddr>(), any::<IpAddr>(), any::<u16>()).prop_map(
                |(epoch, number, underlay, ip, port)| Message::Hello(Hello {
                    epoch: Epoch::new(epoch),
                    state: state(number).unwrap(),
                    underlay,
                    listen: SocketAddr::new(ip, port),
                })
            ),
            claims(MESSAGE_CLAIMS).prop_map(Message::Batch),
            claims(MESSAGE_CLAIMS).prop_map(Message::Snapshot),
            proptest::collection::vec(ask, 0..=MESSAGE_ASKS).prop_map(Message::Ask),
            proptest::collection::vec(answer, 0..=MESSAGE_ANSWERS).prop_map(Message::Answer),
        ]
    }

    proptest! {
        #[test]
        fn a_message_survives_the_wire(message in messages()) {
            let bytes = message.encode();
            prop_assert!(bytes.len() <= MESSAGE_BYTES);
            prop_assert_eq!(Message::decode(&bytes), Ok(message));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
            let _ = Message::decode(&bytes);
        }

        #[test]
        fn garbage_behind_a_good_head_is_refused_without_a_panic(
            kind in 1..=6_u8, count in 0..60_u8, bytes in proptest::collection::vec(0..4_u8, 0..1146)
        ) {
            let bytes = [vec![VERSION, kind, 0, count], bytes].concat();
            if let Ok(decoded) = Message::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }

        #[test]
        fn a_changed_byte_decodes_to_itself_or_not_at_all(
            message in messages(), at in any::<prop::sample::Index>(), to in any::<u8>()
        ) {
            let mut bytes = message.encode();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(decoded) = Message::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }

        #[test]
        fn a_cut_message_is_refused(message in messages(), at in any::<prop::sample::Index>()) {
            let bytes = message.encode();
            let cut = &bytes[..at.index(bytes.len())];
            prop_assert_eq!(Message::decode(cut), Err(WireError::Length));
        }
    }

    #[test]
    fn a_batch_looks_as_documented() {
        let claim = Claim {
            key: 0x0102_0304_0506_0708,
            claimed_at_unix_us: 0x0a0b_0c0d_0e0f_1011,
            remaining_ms: 0x1000,
            epoch: Epoch::new(7),
            refresh: true,
        };
        let expected = [2, 2, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 0, 0, 16, 0, 7, 1];
        assert_eq!(Message::Batch(vec![claim]).encode(), expected);
    }

    #[test]
    fn an_ask_and_its_answers_look_as_documented() {
        let ask = Ask { number: 0x0102, request_key: 3 << 56, reply_key: 4 };
        let expected = [2, 4, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4];
        assert_eq!(Message::Ask(vec![ask]).encode(), expected);
        let claim = Claim { key: 5, claimed_at_unix_us: 6, remaining_ms: 7, epoch: Epoch::new(8), refresh: true };
        let answers = vec![Answer { number: 9, claims: vec![claim] }, Answer { number: 10, claims: Vec::new() }];
        let nothing = [0, 0, 0, 0, 0, 0, 0, 10, 0];
        let found = [0, 0, 0, 0, 0, 0, 0, 9, 1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 7, 8, 1];
        assert_eq!(Message::Answer(answers).encode(), [&[2, 5, 0, 2], &found[..], &nothing].concat());
    }

    #[test]
    fn bad_fields_are_named() {
        let hello = |bytes: &[u8]| Message::decode(bytes).unwrap_err();
        assert_eq!(hello(&[3, 1, 0, 1, 4, 1, 2, 3, 4]), WireError::Version(3));
        assert_eq!(hello(&[2, 9, 0, 4, 1, 2, 3, 4]), WireError::Kind(9));
        assert_eq!(hello(&[2, 6, 0, 0]), WireError::Kind(6));
        assert_eq!(hello(&[2, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 3]), WireError::Claims(3));
        assert_eq!(hello(&[&[2, 5, 0, 22][..], &[0; 22 * 9]].concat()), WireError::Length);
        assert_eq!(hello(&[2, 1, 16, 1, 4, 1, 2, 3, 4]), WireError::Epoch(16));
        assert_eq!(hello(&[2, 1, 0, 4, 4, 1, 2, 3, 4]), WireError::State(4));
        assert_eq!(hello(&[2, 1, 0, 1, 5, 1, 2, 3, 4]), WireError::Family(5));
        assert_eq!(hello(&[2, 1, 0, 1, 4, 1, 2, 3, 4, 4, 1, 2, 3, 4, 9, 9, 0]), WireError::Length);
        assert_eq!(hello(&[2; MESSAGE_BYTES + 1]), WireError::Oversized);
        let claim = Claim { key: 1, claimed_at_unix_us: 1, remaining_ms: 0, epoch: Epoch::new(0), refresh: false };
        assert_eq!(hello(&Message::Batch(vec![claim]).encode()), WireError::Lifetime(0));
        let claim = Claim { remaining_ms: u32::MAX, ..claim };
        assert_eq!(hello(&Message::Batch(vec![claim]).encode()), WireError::Lifetime(u32::MAX));
    }
}
