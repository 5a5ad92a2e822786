//! Holds an answer of the fast path, on the host or in the kernel, against the full reader's.

use std::fmt;

use forwarder_common::{
    abi::{EXPLAINED_KEY, EXPLAINED_OUTCOME, Explained},
    hash,
    outcome::Outcome,
    sip::full::Message,
};

/// What the fast path said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The same as the full reader.
    Agrees,
    /// No key, which it may always say; the outcome's name.
    Punts(&'static str),
    /// Something else: what, and what the full reader says.
    Differs(String),
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agrees => f.write_str("agrees"),
            Self::Punts(outcome) => write!(f, "punts: {outcome}"),
            Self::Differs(what) => write!(f, "disagrees: {what}"),
        }
    }
}

/// Compares what was found in `bytes` with what the full reader read there, `None` if it could not key it.
pub(super) fn compare(found: &Explained, bytes: &[u8], message: Option<&Message<'_>>, hash_key: [u64; 2]) -> Said {
    if found.result != EXPLAINED_KEY {
        return match Outcome::from_number(found.result ^ EXPLAINED_OUTCOME) {
            Some(outcome) => Said::Punts(outcome.name()),
            None => Said::Differs(format!("its result is {:#x}", found.result)),
        };
    }
    let Some(message) = message else {
        return Said::Differs(format!("it has request key {:016x} where there is none", found.request_key));
    };
    let (found, expected) = (Answer::found(found, bytes), Answer::expected(message, hash_key));
    if found == expected { Said::Agrees } else { Said::Differs(format!("{found:x?}, expected {expected:x?}")) }
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    kind: u16,
    status: u16,
    call_id: String,
    cseq: u32,
    branch: String,
    request_key: u64,
    /// 0 without a branch.
    reply_key: u64,
}

impl Answer {
    fn found(found: &Explained, bytes: &[u8]) -> Self {
        let text = |[at, length]: [u16; 2]| {
            let (at, length) = (usize::from(at), usize::from(length));
            bytes.get(at..at + length).unwrap_or(b"(outside the frame)").escape_ascii().to_string()
        };
        Self {
            kind: found.kind,
            status: found.status,
            call_id: text(found.call_id),
            cseq: found.cseq,
            branch: text(found.branch),
            request_key: found.request_key,
            reply_key: found.reply_key,
        }
    }

    fn expected(message: &Message<'_>, hash_key: [u64; 2]) -> Self {
        let branch = message.branch.unwrap_or_default();
        let (request_key, reply_key) = hash::keys(hash_key, message.call_id, message.cseq, branch);
        Self {
            kind: message.kind.code() as u16,
            status: message.status.unwrap_or_default(),
            call_id: message.call_id.escape_ascii().to_string(),
            cseq: message.cseq,
            branch: branch.escape_ascii().to_string(),
            request_key,
            reply_key: if message.branch.is_some() { reply_key } else { 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use forwarder_common::sip::{fast, full};

    use forwarder_common::sip::Kind;

    use super::*;

    const BYTES: &[u8] =
        b"ACK sip:b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nCall-ID: a@b\r\nCSeq: 7 ACK\r\n\r\n";

    fn found() -> Explained {
        fast::read(BYTES, [1, 2], false).unwrap().explained()
    }

    #[test]
    fn the_same_answer_agrees_and_an_outcome_punts() {
        let message = full::read(BYTES).unwrap();
        assert_eq!(compare(&found(), BYTES, Some(&message), [1, 2]), Said::Agrees);
        let punt = Explained { result: EXPLAINED_OUTCOME | Outcome::UnreadForm.number(), ..Explained::default() };
        assert_eq!(compare(&punt, BYTES, Some(&message), [1, 2]), Said::Punts("unread_form"));
    }

    #[test]
    fn every_field_that_differs_is_a_disagreement() {
        let message = full::read(BYTES).unwrap();
        let right = found();
        let wrong = [
            Explained { request_key: right.request_key ^ 1, ..right },
            Explained { reply_key: 0, ..right },
            Explained { cseq: 8, ..right },
            Explained { call_id: [right.call_id[0] + 1, right.call_id[1]], ..right },
            Explained { branch: [60_000, 60_000], ..right },
            Explained { kind: Kind::Request.code() as u16, ..right },
            Explained { status: 200, ..right },
            Explained { result: 0, ..right },
            Explained { result: EXPLAINED_OUTCOME | 255, ..right },
        ];
        for wrong in wrong {
            assert!(matches!(compare(&wrong, BYTES, Some(&message), [1, 2]), Said::Differs(_)), "{wrong:?}");
        }
        assert!(matches!(compare(&right, BYTES, None, [1, 2]), Said::Differs(_)));
    }
}
