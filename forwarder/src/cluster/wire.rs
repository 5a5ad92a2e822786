//! The messages between daemons: bytes in, values out, and back.
//!
//! Everything is big-endian. A message is `version, kind, body`; one message is one uni-directional QUIC stream.
//!
//! | kind | body |
//! |---|---|
//! | 1 hello | epoch (1), address family 4 or 6 (1), underlay address (4 or 16) |
//! | 2 batch, 3 snapshot | count (2), then per claim: key (8), claimed at (8), remaining (4), epoch (1), flags (1) |

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use forwarder_common::ids::{Epoch, Tick};

/// The protocol's version: a node drops the link of a peer that speaks another one.
pub const VERSION: u8 = 1;
/// Longest message in bytes: with QUIC's own headers it fits into one packet of 1,200 bytes, the least that any path carries.
pub const MESSAGE_BYTES: usize = 1150;
/// Most claims in one message.
pub const MESSAGE_CLAIMS: usize = (MESSAGE_BYTES - HEAD_BYTES) / CLAIM_BYTES;
/// Longest remaining lifetime in milliseconds (39 h): the kernel's clock of lifetimes reaches no further.
pub const LIFETIME_MS: u64 = Tick::milliseconds(Tick::LONGEST);

const HEAD_BYTES: usize = 4;
const CLAIM_BYTES: usize = 22;
const HELLO: u8 = 1;
const BATCH: u8 = 2;
const SNAPSHOT: u8 = 3;
const REFRESH: u8 = 1;

/// The first message on each link, and again when the sender's epoch changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The sender's epoch: its claims of another epoch are void.
    pub epoch: Epoch,
    /// Where the sender takes encapsulated packets.
    pub underlay: IpAddr,
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

/// A message between two daemons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who is there.
    Hello(Hello),
    /// Claims as they are made.
    Batch(Vec<Claim>),
    /// Claims that stood already when the link came up.
    Snapshot(Vec<Claim>),
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// It ends too early, or goes on after its end.
    Length,
    /// Longer than [`MESSAGE_BYTES`].
    Oversized,
    /// Another protocol version.
    Version(u8),
    /// No such kind of message.
    Kind(u8),
    /// An epoch beyond 15.
    Epoch(u8),
    /// An address family that is neither 4 nor 6.
    Family(u8),
    /// A remaining lifetime of zero or beyond [`LIFETIME_MS`].
    Lifetime(u32),
    /// A flag that this version does not know.
    Flags(u8),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => write!(f, "a message of the wrong length"),
            Self::Oversized => write!(f, "a message of more than {MESSAGE_BYTES} bytes"),
            Self::Version(version) => write!(f, "protocol version {version}, this daemon speaks {VERSION}"),
            Self::Kind(kind) => write!(f, "an unknown kind of message ({kind})"),
            Self::Epoch(epoch) => write!(f, "an impossible epoch ({epoch})"),
            Self::Family(family) => write!(f, "an unknown address family ({family})"),
            Self::Lifetime(ms) => write!(f, "a lifetime out of bounds ({ms} ms)"),
            Self::Flags(flags) => write!(f, "unknown flags ({flags:#04x})"),
        }
    }
}

impl std::error::Error for WireError {}

impl Message {
    /// The bytes of the message. Claims beyond [`MESSAGE_CLAIMS`] are left out: callers send in chunks of that many.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => encode_hello(hello),
            Self::Batch(claims) => encode_claims(BATCH, claims),
            Self::Snapshot(claims) => encode_claims(SNAPSHOT, claims),
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
            kind => return Err(WireError::Kind(kind)),
        };
        if reader.0.is_empty() { Ok(message) } else { Err(WireError::Length) }
    }
}

fn encode_hello(hello: &Hello) -> Vec<u8> {
    let mut out = vec![VERSION, HELLO, hello.epoch.number()];
    match hello.underlay {
        IpAddr::V4(address) => {
            out.push(4);
            out.extend(address.octets());
        }
        IpAddr::V6(address) => {
            out.push(6);
            out.extend(address.octets());
        }
    }
    out
}

fn encode_claims(kind: u8, claims: &[Claim]) -> Vec<u8> {
    let count = claims.len().min(MESSAGE_CLAIMS);
    let mut out = Vec::with_capacity(HEAD_BYTES + count * CLAIM_BYTES);
    out.extend([VERSION, kind]);
    out.extend((count as u16).to_be_bytes());
    for claim in claims.iter().take(count) {
        out.extend(claim.key.to_be_bytes());
        out.extend(claim.claimed_at_unix_us.to_be_bytes());
        out.extend(claim.remaining_ms.to_be_bytes());
        out.push(claim.epoch.number());
        out.push(if claim.refresh { REFRESH } else { 0 });
    }
    out
}

fn decode_hello(reader: &mut Reader<'_>) -> Result<Hello, WireError> {
    let epoch = reader.epoch()?;
    let underlay = match reader.byte()? {
        4 => IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?)),
        6 => IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?)),
        family => return Err(WireError::Family(family)),
    };
    Ok(Hello { epoch, underlay })
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

    fn epoch(&mut self) -> Result<Epoch, WireError> {
        let number = self.byte()?;
        if number > 15 { Err(WireError::Epoch(number)) } else { Ok(Epoch::new(u64::from(number))) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claims() -> impl Strategy<Value = Vec<Claim>> {
        let claim = (any::<u64>(), any::<u64>(), 1..=LIFETIME_MS as u32, 0..16_u64, any::<bool>()).prop_map(
            |(key, claimed_at_unix_us, remaining_ms, epoch, refresh)| Claim {
                key,
                claimed_at_unix_us,
                remaining_ms,
                epoch: Epoch::new(epoch),
                refresh,
            },
        );
        proptest::collection::vec(claim, 0..=MESSAGE_CLAIMS)
    }

    fn messages() -> impl Strategy<Value = Message> {
        prop_oneof![
            (0..16_u64, any::<IpAddr>())
                .prop_map(|(epoch, underlay)| Message::Hello(Hello { epoch: Epoch::new(epoch), underlay })),
            claims().prop_map(Message::Batch),
            claims().prop_map(Message::Snapshot),
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
        let expected = [1, 2, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 0, 0, 16, 0, 7, 1];
        assert_eq!(Message::Batch(vec![claim]).encode(), expected);
    }

    #[test]
    fn bad_fields_are_named() {
        let hello = |bytes: &[u8]| Message::decode(bytes).unwrap_err();
        assert_eq!(hello(&[2, 1, 0, 4, 1, 2, 3, 4]), WireError::Version(2));
        assert_eq!(hello(&[1, 9, 0, 4, 1, 2, 3, 4]), WireError::Kind(9));
        assert_eq!(hello(&[1, 1, 16, 4, 1, 2, 3, 4]), WireError::Epoch(16));
        assert_eq!(hello(&[1, 1, 0, 5, 1, 2, 3, 4]), WireError::Family(5));
        assert_eq!(hello(&[1, 1, 0, 4, 1, 2, 3, 4, 5]), WireError::Length);
        assert_eq!(hello(&[1; MESSAGE_BYTES + 1]), WireError::Oversized);
        let claim = Claim { key: 1, claimed_at_unix_us: 1, remaining_ms: 0, epoch: Epoch::new(0), refresh: false };
        assert_eq!(hello(&Message::Batch(vec![claim]).encode()), WireError::Lifetime(0));
        let claim = Claim { remaining_ms: u32::MAX, ..claim };
        assert_eq!(hello(&Message::Batch(vec![claim]).encode()), WireError::Lifetime(u32::MAX));
    }
}
