//! What one node's daemon asks another node's programs through the tunnel, and what they answer, daemon or not.
//!
//! Inside the tunnel lies an IPv6 packet without next header (RFC 8200 §4.7). Its source address is the two keys that
//! are asked for, its destination address is the answer, and its first eight bytes of payload are the asker's ticket:
//! all of it is what the tunnel's tag covers. The program that answers writes the answer into the packet that came, and
//! sends it back; so an answer is never longer than its question.

use crate::{
    abi::Address,
    ids::{Epoch, Epochs, IpProtocol},
    rest::KeyKind,
};

/// Bytes of a question: the IPv6 header and the ticket.
pub const LENGTH: usize = HEADER + 8;
/// Where the destination address lies in it.
pub const DESTINATION: usize = 24;
/// Bytes of the IPv6 header.
const HEADER: usize = 40;

/// No next header (RFC 8200 §4.7).
const NO_NEXT_HEADER: IpProtocol = IpProtocol(59);

/// The question whose claims these keys are, 0 for no key, as the packet inside the tunnel; `ticket` comes back with
/// the answer.
#[must_use]
pub fn packet(request_key: u64, reply_key: u64, ticket: u32) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, from) in packet.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    };
    put(0, &[0x60, 0, 0, 0, 0, (LENGTH - HEADER) as u8, NO_NEXT_HEADER.0, 1]);
    put(8, &request_key.to_ne_bytes());
    put(16, &reply_key.to_ne_bytes());
    put(HEADER, &ticket.to_le_bytes());
    packet
}

/// The request key and the reply key that a question's source address names.
#[inline(always)] // a few instructions
#[must_use]
pub const fn keys(source: Address) -> (u64, u64) {
    let Address([a, b, c, d]) = source;
    (join(a, b), join(c, d))
}

/// The ticket, from the first eight bytes of a question's or an answer's payload.
#[must_use]
pub const fn ticket(start: u64) -> u32 {
    start as u32
}

/// Two words as they lie in memory.
#[inline(always)] // a few instructions
const fn join(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// A claim of the node that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which of the keys it is on.
    pub kind: KeyKind,
    /// Its epoch.
    pub epoch: Epoch,
    /// Ticks that are left of it.
    pub ticks: u16,
}

/// The claim that a question with these keys is answered with, where `own` gives this node's effective claim of a key:
/// that of the reply key before that of the request key. 0 is no key.
#[inline(always)] // two calls
pub fn held(request_key: u64, reply_key: u64, own: impl Fn(u64, KeyKind) -> Option<Held>) -> Option<Held> {
    let of = |key, kind| if key == 0 { None } else { own(key, kind) };
    of(reply_key, KeyKind::Reply).or_else(|| of(request_key, KeyKind::Request))
}

/// What the programs of a node say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its effective claim of one of the keys, of the reply key where it has both.
    pub held: Option<Held>,
    /// Its live epochs.
    pub epochs: Epochs,
    /// Its daemon's lease is not over.
    pub has_daemon: bool,
}

const ANSWERED: u32 = 1;
const HAS_DAEMON: u32 = 2;

impl Answer {
    /// As the destination address of the packet.
    #[inline(always)] // a few instructions
    #[must_use]
    pub const fn address(self) -> Address {
        let flags = ANSWERED | if self.has_daemon { HAS_DAEMON } else { 0 };
        let (claim, ticks) = match self.held {
            Some(Held { kind, epoch, ticks }) => (kind.code() as u32 | (epoch.number() as u32) << 8, ticks as u32),
            None => (0, 0),
        };
        Address([flags, claim, ticks, self.epochs.bits() as u32])
    }

    /// Of a destination address; `None`: it is no answer.
    #[must_use]
    pub fn of(address: Address) -> Option<Self> {
        let Address([flags, claim, ticks, epochs]) = address;
        if flags & ANSWERED == 0 {
            return None;
        }
        let held = KeyKind::decode(u64::from(claim & 0xff)).map(|kind| Held {
            kind,
            epoch: Epoch::new(u64::from(claim >> 8)),
            ticks: ticks as u16,
        });
        Some(Self { held, epochs: Epochs::from_bits(epochs as u16), has_daemon: flags & HAS_DAEMON != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{geneve::Inner, ids::EtherType, net};

    #[test]
    fn a_question_is_answered_with_the_reply_keys_claim_first_and_key_0_is_none() {
        let claim = |kind, ticks| Some(Held { kind, epoch: Epoch::new(3), ticks });
        let own = |key, kind| if key == 9 { None } else { claim(kind, key as u16) };
        for (request, reply, expected) in [
            (1, 2, claim(KeyKind::Reply, 2)),
            (1, 9, claim(KeyKind::Request, 1)),
            (1, 0, claim(KeyKind::Request, 1)),
            (0, 2, claim(KeyKind::Reply, 2)),
            (9, 9, None),
            (0, 0, None),
        ] {
            assert_eq!(held(request, reply, own), expected, "{request} {reply}");
        }
    }

    #[test]
    fn a_question_is_an_ip_packet_whose_keys_and_ticket_the_tag_covers() {
        let (request_key, reply_key, number) = (0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 0x0a0b_0c0d);
        let packet = packet(request_key, reply_key, number);
        let ip = net::ip(&packet.as_slice(), 0, EtherType::IPV6).unwrap();
        assert_eq!((ip.length(), ip.fragment, ip.udp(&packet.as_slice()).is_some()), (LENGTH, false, false));
        let inner = Inner::read(&packet.as_slice(), &ip).unwrap();
        assert_eq!(keys(inner.source), (request_key, reply_key));
        assert_eq!((ticket(inner.start), inner.destination), (number, Address::v6([0; 16])));
        assert_eq!(Answer::of(inner.destination), None, "a question is no answer");
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let held = [None].into_iter().chain(
            [KeyKind::Request, KeyKind::Reply].map(|kind| Some(Held { kind, epoch: Epoch::new(13), ticks: 500 })),
        );
        for held in held {
            for has_daemon in [false, true] {
                let answer = Answer { held, epochs: Epochs::from_bits(0x8421), has_daemon };
                assert_eq!(Answer::of(answer.address()), Some(answer));
            }
        }
    }
}
