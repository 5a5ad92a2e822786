//! Bytes to messages and back. Lengths are compared before anything is allocated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use forwarder_common::ids::Epoch;

use super::{
    ANSWER_CLAIMS, Answer, Ask, BATCH_CLAIMS, Claim, Claims, Digest, Hello, LIFETIME_MS, MESSAGE_ANSWERS, MESSAGE_ASKS,
    MESSAGE_BYTES, Message, PACKET_BYTES, REPAIR_RANGES, Repair, SNAPSHOT_CLAIMS, State, VERSION, WireError,
};

pub(super) const HEAD_BYTES: usize = 4;
pub(super) const CLAIMS_HEAD: usize = 17;
pub(super) const CLAIM_BYTES: usize = 21;
pub(super) const ASK_BYTES: usize = 24;
pub(super) const ANSWER_BYTES: usize = 10;
pub(super) const REPAIR_HEAD: usize = 20;
pub(super) const RANGE_BYTES: usize = 16;

/// In the place of an epoch that is not known.
const NO_EPOCH: u8 = 255;
const HELLO: u8 = 1;
const BATCH: u8 = 2;
const SNAPSHOT: u8 = 3;
const ASK: u8 = 4;
const ANSWER: u8 = 5;
const DIGEST: u8 = 6;
const REPAIR: u8 = 7;
const MUST_ANSWER: u8 = 1;

pub(super) fn encode(message: &Message) -> Vec<u8> {
    match message {
        Message::Hello(hello) => encode_hello(hello),
        Message::Batch(claims) => encode_claims(BATCH, BATCH_CLAIMS, claims),
        Message::Snapshot(claims) => encode_claims(SNAPSHOT, SNAPSHOT_CLAIMS, claims),
        Message::Ask(asks) => encode_asks(asks),
        Message::Answer(answers) => encode_answers(answers),
        Message::Digest(digest) => {
            let mut out = vec![VERSION, DIGEST];
            out.extend(digest.settled.to_be_bytes());
            out.push(if digest.must_answer { MUST_ANSWER } else { 0 });
            out
        }
        Message::Repair(repair) => encode_repair(repair),
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Message, WireError> {
    if bytes.len() > MESSAGE_BYTES {
        return Err(WireError::Oversized);
    }
    let mut reader = Reader(bytes);
    let version = reader.byte()?;
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    let kind = reader.byte()?;
    if kind != SNAPSHOT && bytes.len() > PACKET_BYTES {
        return Err(WireError::Oversized);
    }
    let message = match kind {
        HELLO => Message::Hello(decode_hello(&mut reader)?),
        BATCH => Message::Batch(decode_claims(&mut reader)?),
        SNAPSHOT => Message::Snapshot(decode_claims(&mut reader)?),
        ASK => Message::Ask(decode_asks(&mut reader)?),
        ANSWER => Message::Answer(decode_answers(&mut reader)?),
        DIGEST => Message::Digest(Digest { settled: reader.number()?, must_answer: reader.flag(MUST_ANSWER)? }),
        REPAIR => Message::Repair(decode_repair(&mut reader)?),
        kind => return Err(WireError::Kind(kind)),
    };
    if reader.0.is_empty() { Ok(message) } else { Err(WireError::Length) }
}

fn encode_hello(hello: &Hello) -> Vec<u8> {
    let mut out = vec![VERSION, HELLO];
    out.extend(hello.life.to_be_bytes());
    out.extend(hello.sequence.to_be_bytes());
    out.extend([hello.epoch.number(), state_number(hello.state)]);
    encode_address(&mut out, hello.underlay);
    encode_address(&mut out, hello.listen.ip());
    out.extend(hello.listen.port().to_be_bytes());
    out.extend(hello.next.to_be_bytes());
    out.extend(hello.your_life.to_be_bytes());
    out.push(hello.your_epoch.map_or(NO_EPOCH, Epoch::number));
    out.extend(hello.have.to_be_bytes());
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

pub(super) const fn state(number: u8) -> Result<State, WireError> {
    match number {
        0 => Ok(State::Joining),
        1 => Ok(State::Up),
        2 => Ok(State::Draining),
        3 => Ok(State::ProxyDown),
        number => Err(WireError::State(number)),
    }
}

fn encode_claims(kind: u8, most: usize, claims: &Claims) -> Vec<u8> {
    let count = claims.claims.len().min(most);
    let mut out = Vec::with_capacity(CLAIMS_HEAD + count * CLAIM_BYTES);
    out.extend([VERSION, kind]);
    out.extend(claims.first.to_be_bytes());
    out.extend(claims.span.to_be_bytes());
    out.push(claims.epoch.number());
    out.extend((count as u16).to_be_bytes());
    claims.claims.iter().take(count).for_each(|claim| encode_claim(&mut out, claim));
    out
}

fn encode_claim(out: &mut Vec<u8>, claim: &Claim) {
    out.extend(claim.key.to_be_bytes());
    out.extend(claim.claimed_at_unix_us.to_be_bytes());
    out.extend(claim.remaining_ms.to_be_bytes());
    out.push(claim.word);
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
        out.extend([answer.epoch.number(), claims as u8]);
        answer.claims.iter().take(claims).for_each(|claim| encode_claim(&mut out, claim));
    }
    out
}

fn encode_repair(repair: &Repair) -> Vec<u8> {
    let count = repair.missing.len().min(REPAIR_RANGES);
    let mut out = vec![VERSION, REPAIR];
    out.extend(repair.sequence.to_be_bytes());
    out.extend(repair.pieces.to_be_bytes());
    out.extend(repair.below.to_be_bytes());
    out.extend((count as u16).to_be_bytes());
    for (from, to) in repair.missing.iter().take(count) {
        out.extend(from.to_be_bytes());
        out.extend(to.to_be_bytes());
    }
    out
}

fn decode_hello(reader: &mut Reader<'_>) -> Result<Hello, WireError> {
    Ok(Hello {
        life: reader.number()?,
        sequence: u32::from_be_bytes(reader.array()?),
        epoch: reader.epoch()?,
        state: state(reader.byte()?)?,
        underlay: reader.address()?,
        listen: SocketAddr::new(reader.address()?, u16::from_be_bytes(reader.array()?)),
        next: reader.number()?,
        your_life: reader.number()?,
        your_epoch: reader.known_epoch()?,
        have: reader.number()?,
    })
}

fn decode_claims(reader: &mut Reader<'_>) -> Result<Claims, WireError> {
    let first = reader.number()?;
    let span = u32::from_be_bytes(reader.array()?);
    let epoch = reader.epoch()?;
    let count = reader.count(CLAIM_BYTES)?;
    // Each claim has a number of its own.
    if count > span as usize || first.checked_add(u64::from(span)).is_none() {
        return Err(WireError::Numbers);
    }
    let claims = (0..count).map(|_| decode_claim(reader)).collect::<Result<_, _>>()?;
    Ok(Claims { first, span, epoch, claims })
}

fn decode_claim(reader: &mut Reader<'_>) -> Result<Claim, WireError> {
    let (key, claimed_at_unix_us) = (reader.number()?, reader.number()?);
    let remaining_ms = u32::from_be_bytes(reader.array()?);
    if remaining_ms == 0 || u64::from(remaining_ms) > LIFETIME_MS {
        return Err(WireError::Lifetime(remaining_ms));
    }
    Ok(Claim { key, claimed_at_unix_us, remaining_ms, word: reader.byte()? })
}

fn decode_asks(reader: &mut Reader<'_>) -> Result<Vec<Ask>, WireError> {
    let ask = |reader: &mut Reader<'_>| {
        Ok(Ask { number: reader.number()?, request_key: reader.number()?, reply_key: reader.number()? })
    };
    (0..reader.count(ASK_BYTES)?).map(|_| ask(reader)).collect()
}

fn decode_answers(reader: &mut Reader<'_>) -> Result<Vec<Answer>, WireError> {
    let count = usize::from(u16::from_be_bytes(reader.array()?));
    if count > MESSAGE_ANSWERS || reader.0.len() < count * ANSWER_BYTES {
        return Err(WireError::Length);
    }
    (0..count).map(|_| decode_answer(reader)).collect()
}

fn decode_answer(reader: &mut Reader<'_>) -> Result<Answer, WireError> {
    let (number, epoch, count) = (reader.number()?, reader.epoch()?, reader.byte()?);
    if usize::from(count) > ANSWER_CLAIMS {
        return Err(WireError::Claims(count));
    }
    let claims = (0..count).map(|_| decode_claim(reader)).collect::<Result<_, _>>()?;
    Ok(Answer { number, epoch, claims })
}

fn decode_repair(reader: &mut Reader<'_>) -> Result<Repair, WireError> {
    let (sequence, pieces) = (u32::from_be_bytes(reader.array()?), u32::from_be_bytes(reader.array()?));
    let below = reader.number()?;
    let count = reader.count(RANGE_BYTES)?;
    let missing =
        (0..count).map(|_| Ok((reader.number()?, reader.number()?))).collect::<Result<Vec<_>, WireError>>()?;
    if missing.iter().any(|(from, to)| from >= to) {
        return Err(WireError::Numbers);
    }
    Ok(Repair { sequence, pieces, below, missing })
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

    fn number(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// The count of items of so many bytes, which must be all that is left.
    fn count(&mut self, bytes: usize) -> Result<usize, WireError> {
        let count = usize::from(u16::from_be_bytes(self.array()?));
        if self.0.len() == count * bytes { Ok(count) } else { Err(WireError::Length) }
    }

    /// A byte of flags, of which this version knows one.
    fn flag(&mut self, flag: u8) -> Result<bool, WireError> {
        let flags = self.byte()?;
        if flags & !flag == 0 { Ok(flags != 0) } else { Err(WireError::Flags(flags)) }
    }

    fn address(&mut self) -> Result<IpAddr, WireError> {
        match self.byte()? {
            4 => Ok(IpAddr::V4(Ipv4Addr::from(self.array::<4>()?))),
            6 => Ok(IpAddr::V6(Ipv6Addr::from(self.array::<16>()?))),
            family => Err(WireError::Family(family)),
        }
    }

    fn epoch(&mut self) -> Result<Epoch, WireError> {
        epoch(self.byte()?)
    }

    fn known_epoch(&mut self) -> Result<Option<Epoch>, WireError> {
        match self.byte()? {
            NO_EPOCH => Ok(None),
            number => epoch(number).map(Some),
        }
    }
}

fn epoch(number: u8) -> Result<Epoch, WireError> {
    if number > 15 { Err(WireError::Epoch(number)) } else { Ok(Epoch::new(u64::from(number))) }
}
