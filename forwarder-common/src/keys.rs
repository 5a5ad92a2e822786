//! Which keys a message has where it is seen, and under which of them its owner is found.

use crate::{
    abi::{AFFINITY_CALL, SERVICE_SET, Service},
    hash,
    sip::{Kind, full::Message},
};

/// The keys of a message where it is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The request key `L`.
    pub request: u64,
    /// The reply key `X`, where it has one.
    pub reply: Option<u64>,
}

impl Keys {
    /// The keys of a message that the full grammar has read, seen there; with affinity `call` the Call-ID alone is the
    /// key.
    #[must_use]
    pub fn of(message: &Message<'_>, seen: Seen, is_call: bool, hash_key: [u64; 2]) -> Self {
        let branch = message.branch.unwrap_or_default();
        let cseq = if is_call { 0 } else { message.cseq };
        let (request, reply) = hash::keys(hash_key, message.call_id, cseq, branch);
        let has_reply_key = seen.has_reply_key(message.kind == Kind::Response) && !branch.is_empty();
        Self { request, reply: has_reply_key.then_some(reply) }
    }
}

/// Where a message is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It arrives for a service.
    Arriving,
    /// It leaves from a service's address.
    Leaving,
    /// It leaves from another address of this host, which may be a source of a service.
    LeavingElsewhere,
}

impl Seen {
    /// A message that leaves from this service or source, or from another address.
    #[inline(always)] // two compares
    #[must_use]
    pub const fn leaving(from: Option<&Service>) -> Self {
        match from {
            Some(service) if service.flags & SERVICE_SET != 0 => Self::Leaving,
            Some(_) | None => Self::LeavingElsewhere,
        }
    }

    /// Whether the message has a reply key `X` besides its request key `L`, if its top Via has a branch.
    ///
    /// A request that leaves from a service's address is answered there, under the branch that this node's proxy has
    /// put into it (RFC 3261 §17.1.3); a response that arrives carries that branch. Whatever else there is, `L` stands
    /// for it.
    #[inline(always)] // known where it is asked
    #[must_use]
    pub const fn has_reply_key(self, is_response: bool) -> bool {
        match self {
            Self::Arriving => is_response,
            Self::Leaving => !is_response,
            Self::LeavingElsewhere => false,
        }
    }
}

/// How the messages of a service, or of no service, are keyed, and how long their claims last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// By Call-ID and CSeq number, as long as the transaction.
    Transaction,
    /// By the Call-ID alone, for so many ticks after each message.
    Call(u16),
}

impl Affinity {
    /// That of a message of this service or source.
    #[inline(always)] // a few compares
    #[must_use]
    pub const fn of(service: Option<&Service>) -> Self {
        match service {
            Some(service) if service.flags & AFFINITY_CALL != 0 => Self::Call(service.call_ticks),
            Some(_) | None => Self::Transaction,
        }
    }

    /// Whether the key is the Call-ID alone.
    #[inline(always)] // a compare
    #[must_use]
    pub const fn is_call(self) -> bool {
        matches!(self, Self::Call(_))
    }

    /// Ticks that a claim lasts after each message; 0 where that is for the transaction to say.
    #[inline(always)] // a compare
    #[must_use]
    pub const fn call_ticks(self) -> u16 {
        match self {
            Self::Transaction => 0,
            Self::Call(ticks) => ticks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::full;

    #[test]
    fn what_is_answered_here_has_a_reply_key() {
        let keys = |seen: Seen| [false, true].map(|is_response| seen.has_reply_key(is_response));
        assert_eq!(keys(Seen::Arriving), [false, true]);
        assert_eq!(keys(Seen::Leaving), [true, false]);
        assert_eq!(keys(Seen::LeavingElsewhere), [false, false]);
    }

    #[test]
    fn a_source_has_the_affinity_of_its_service_and_no_answers() {
        let call = Service { flags: SERVICE_SET | AFFINITY_CALL, call_ticks: 1700, ..Service::default() };
        let plain = Service { flags: SERVICE_SET, ..call };
        for (service, expected, seen) in [
            (Some(call), Affinity::Call(1700), Seen::Leaving),
            (Some(plain), Affinity::Transaction, Seen::Leaving),
            (Some(call.source()), Affinity::Call(1700), Seen::LeavingElsewhere),
            (Some(plain.source()), Affinity::Transaction, Seen::LeavingElsewhere),
            (None, Affinity::Transaction, Seen::LeavingElsewhere),
        ] {
            let affinity = Affinity::of(service.as_ref());
            assert_eq!((affinity, Seen::leaving(service.as_ref())), (expected, seen));
            assert_eq!(affinity.call_ticks(), if affinity.is_call() { 1700 } else { 0 });
        }
    }

    #[test]
    fn the_reply_key_needs_a_branch_and_a_call_has_one_key() {
        let read = |text: &'static str| full::read(text.as_bytes()).unwrap();
        let request =
            read("INVITE sip:b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nCall-ID: a\r\nCSeq: 7 INVITE\r\n\r\n");
        let reply =
            read("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nCall-ID: a\r\nCSeq: 7 INVITE\r\n\r\n");
        let old = read("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h\r\nCall-ID: a\r\nCSeq: 8 BYE\r\n\r\n");
        let keys = |message, seen| Keys::of(message, seen, false, [1, 2]);
        let (request_key, reply_key) = hash::keys([1, 2], b"a", 7, b"z9hG4bK1");
        let both = Keys { request: request_key, reply: Some(reply_key) };
        let one = Keys { request: request_key, reply: None };
        assert_eq!([Seen::Arriving, Seen::Leaving].map(|seen| keys(&request, seen)), [one, both]);
        assert_eq!([Seen::Arriving, Seen::Leaving].map(|seen| keys(&reply, seen)), [both, one]);
        assert_eq!(keys(&old, Seen::Arriving).reply, None);
        let of_call = |message| Keys::of(message, Seen::LeavingElsewhere, true, [1, 2]);
        assert_eq!(of_call(&request), of_call(&old));
    }
}
