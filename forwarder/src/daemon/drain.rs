//! How far a drain has come: which transactions of this node a message could still need.
//!
//! Claims last longer than that, see [`forwarder_common::lifetime`]: what counts here is how far their transactions
//! have come. One is waited for until its final reply has left, and for T4 after the last copy of that, or of the ACK.
//! For as long as anybody lacks the reply or the ACK something of the transaction leaves each T2 at the latest, 4 s,
//! which is less than T4.
//!
//! Waited for are the transactions that were in flight when the drain began. A proxy that begins transactions by
//! itself, such as pings to its peers, claims all the time, and would never be drained.

use std::collections::BTreeMap;

use forwarder_common::{
    lifetime::T4_MS,
    rest::{Class, KeyKind, Rest, Stage},
};

/// How long after a drain's begin a transaction that shows up counts as one of before, in microseconds. A proxy says
/// something of an INVITE within 200 ms (RFC 3261 §17.2.1), and of any other request before its client sends it again
/// after T2, 3.5 s (RFC 4320 §4.1).
const BEGINS_US: u64 = T4_MS * 1000;
/// How long nothing may have left of an answered transaction, in microseconds, until nobody needs it.
//= https://www.rfc-editor.org/rfc/rfc3261#section-17.1.2.2
//# the timer is reset, but this time with a value of MIN(2*T1, T2).
// A client that lacks the final reply sends its request again, and the server its reply (§17.2.2).
//= https://www.rfc-editor.org/rfc/rfc3261#section-17.2.1
//# timer G is set to fire in MIN(2*T1, T2) seconds.
// A server that lacks the ACK of a refusal sends that again, until Timer H, 64*T1.
//= https://www.rfc-editor.org/rfc/rfc3261#section-13.3.1.4
//# The 2xx response is passed to the transport with an interval that starts at T1 seconds and doubles for each
//# retransmission until it reaches T2 seconds
// So does a callee with its 2xx, by way of the proxy, and the caller sends its ACK by that way again.
const QUIET_US: u64 = T4_MS * 1000;

/// A transaction of this node, by the claim on its request key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transaction {
    key: u64,
    /// How long its claim lasts, in microseconds.
    left_us: u64,
    /// The final reply or ACK that has left last; `None`: it waits for its final reply.
    answered: Option<Stage>,
    /// Its claim stands for a call, and may outlive it by far.
    is_of_call: bool,
}

impl Transaction {
    /// What a claim says of one, if it does: by the word beside it, whether its service has affinity `call`, and by
    /// what the core knows of an INVITE with that request key.
    pub(super) fn of(key: u64, left_us: u64, rest: Rest, is_of_call: bool, invite_waits: Option<bool>) -> Option<Self> {
        let stage = rest.stage();
        if rest.kind() == Some(KeyKind::Reply) {
            return None;
        }
        let last = Some(stage).filter(|stage| matches!(stage, Stage::Answered | Stage::AnsweredAgain));
        let answered = match invite_waits {
            _ if is_of_call && stage == Stage::Begun => return None,
            _ if is_of_call => last,
            Some(true) => None,
            Some(false) => last.or(Some(stage)),
            // Several branches of it may wait, and an earlier daemon was told of them.
            None if rest.class() == Some(Class::Proceeding) => None,
            None => last,
        };
        Some(Self { key, left_us, answered, is_of_call })
    }
}

/// What a drain waits for.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// By their request keys; not known before somebody asks.
    noted: Option<BTreeMap<u64, Noted>>,
}

/// A transaction that was in flight when the drain began.
#[derive(Clone, Copy, Debug)]
struct Noted {
    answered: Option<Stage>,
    /// When that was seen first, in microseconds of the monotonic clock.
    since_us: u64,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Transactions that are waited for.
    pub(super) transactions: u64,
    /// Microseconds until the last of them ends at the latest.
    pub(super) left_us: u64,
    /// Transactions that have begun since, whose claims have not ended yet.
    pub(super) since: u64,
}

impl Drain {
    /// The node's transactions are these now, `draining_us` after the drain's begin; one of a call waits for
    /// `longest_us` at most.
    pub(super) fn progress(
        &mut self,
        own: impl Iterator<Item = Transaction>,
        draining_us: u64,
        longest_us: u64,
        now_us: u64,
    ) -> Progress {
        let begins = draining_us < BEGINS_US || self.noted.is_none();
        let before = self.noted.take().unwrap_or_default();
        let mut progress = Progress { transactions: 0, left_us: 0, since: 0 };
        let mut noted = BTreeMap::new();
        for Transaction { key, left_us, answered, is_of_call } in own {
            let known = before.get(&key).copied();
            if known.is_none() && !begins {
                progress.since += 1;
                continue;
            }
            let known = known.filter(|known| known.answered == answered);
            let known = known.unwrap_or(Noted { answered, since_us: now_us });
            noted.insert(key, known);
            let most_us = match answered {
                Some(_) => QUIET_US,
                None if is_of_call => longest_us,
                None => u64::MAX,
            };
            let left_us = left_us.min(most_us.saturating_sub(now_us.saturating_sub(known.since_us)));
            if left_us > 0 {
                progress.transactions += 1;
                progress.left_us = progress.left_us.max(left_us);
            }
        }
        self.noted = Some(noted);
        progress
    }
}

#[cfg(test)]
mod tests {
    use forwarder_common::rest::Step;

    use super::*;

    const S: u64 = 1_000_000;
    const LONGEST_US: u64 = 220 * S;

    fn word(kind: KeyKind, class: Class, stage: Stage) -> Rest {
        let rest = Rest::of(1, 0, kind, class);
        match stage {
            Stage::Begun => rest,
            Stage::Waits => rest.after(Step::Waits),
            Stage::Answered => rest.after(Step::Answered),
            Stage::AnsweredAgain => rest.after(Step::Answered).after(Step::Answered),
        }
    }

    #[test]
    fn a_claim_says_of_its_transaction_whether_a_message_could_need_it() {
        use Stage::{Answered as Done, AnsweredAgain as Again, Begun, Waits};
        let (waits, done, again) = (Some(None), Some(Some(Done)), Some(Some(Again)));
        for (class, stage, is_of_call, invite_waits, expected) in [
            (Class::Short, Begun, false, None, waits),
            (Class::Short, Waits, false, None, waits),
            (Class::Short, Done, false, None, done),
            (Class::Short, Again, false, None, again),
            // An INVITE: one branch was refused, another rings.
            (Class::Proceeding, Done, false, Some(true), waits),
            (Class::Proceeding, Waits, false, Some(true), waits),
            (Class::Proceeding, Again, false, Some(false), again),
            (Class::Proceeding, Begun, false, Some(false), Some(Some(Begun))),
            (Class::Proceeding, Done, false, None, waits),
            // With affinity call: only what is known of an INVITE is waited for.
            (Class::Short, Begun, true, None, None),
            (Class::Call, Begun, true, None, None),
            (Class::Proceeding, Waits, true, None, waits),
            (Class::Proceeding, Done, true, None, done),
            (Class::Call, Done, true, None, done),
            (Class::Call, Waits, true, None, waits),
        ] {
            let of = |kind| Transaction::of(1, S, word(kind, class, stage), is_of_call, invite_waits);
            let answered = of(KeyKind::Request).map(|transaction| transaction.answered);
            assert_eq!(answered, expected, "{class:?} {stage:?} {is_of_call} {invite_waits:?}");
            assert_eq!(of(KeyKind::Reply), None, "a reply key is none");
        }
        let unknown = Transaction::of(1, S, Rest::new(1), false, None).unwrap();
        assert_eq!(unknown.answered, None, "a claim of which nothing was noted is waited for");
    }

    /// A transaction whose claim lasts for so many seconds.
    fn transaction(key: u64, left_s: u64, answered: Option<Stage>) -> Transaction {
        Transaction { key, left_us: left_s * S, answered, is_of_call: false }
    }

    /// What is reported of these, so many seconds after the drain's begin: how many are waited for, for how many
    /// seconds at most, and how many have begun since.
    fn at(drain: &mut Drain, after_s: u64, own: &[Transaction]) -> (u64, u64, u64) {
        let progress = drain.progress(own.iter().copied(), after_s * S, LONGEST_US, (1000 + after_s) * S);
        (progress.transactions, progress.left_us / S, progress.since)
    }

    #[test]
    fn an_answered_transaction_is_waited_for_until_nothing_of_it_has_left_for_t4() {
        let (waits, done, again) = (None, Some(Stage::Answered), Some(Stage::AnsweredAgain));
        let mut drain = Drain::default();
        for (after_s, answered, expected) in [
            (0, waits, (1, 200, 0)),
            (30, waits, (1, 200, 0)),
            (31, done, (1, 5, 0)),
            (35, done, (1, 1, 0)),
            (35, again, (1, 5, 0)),
            (39, again, (1, 1, 0)),
            (40, again, (0, 0, 0)),
            // It rings on all the same.
            (41, waits, (1, 200, 0)),
        ] {
            assert_eq!(at(&mut drain, after_s, &[transaction(1, 200, answered)]), expected, "{after_s} s");
        }
        assert_eq!(at(&mut drain, 42, &[]), (0, 0, 0), "the end of its claim is an end in any case");
    }

    #[test]
    fn what_begins_after_the_drain_is_counted_and_not_waited_for() {
        let done = Some(Stage::Answered);
        let mut drain = Drain::default();
        assert_eq!(at(&mut drain, 0, &[transaction(1, 37, None)]), (1, 37, 0));
        let two = [transaction(1, 36, done), transaction(2, 37, None)];
        assert_eq!(at(&mut drain, 1, &two), (2, 37, 0), "it was in flight");
        let three = [transaction(1, 32, done), transaction(2, 33, done), transaction(3, 37, None)];
        assert_eq!(at(&mut drain, 5, &three), (2, 5, 1));
        assert_eq!(at(&mut drain, 10, &three), (0, 0, 1), "their claims are there still, and nobody waits for them");
        assert_eq!(at(&mut drain, 11, &[three[2]]), (0, 0, 1));
    }

    #[test]
    fn who_asks_late_waits_for_what_is_there_then() {
        let mut drain = Drain::default();
        assert_eq!(at(&mut drain, 60, &[transaction(1, 9, None)]), (1, 9, 0));
        assert_eq!(at(&mut drain, 61, &[transaction(2, 9, None)]), (0, 0, 1));
    }

    #[test]
    fn a_call_without_a_final_reply_is_waited_for_no_longer_than_an_invite_rings() {
        let mut drain = Drain::default();
        let call = Transaction { is_of_call: true, ..transaction(1, 7200, None) };
        assert_eq!(at(&mut drain, 0, &[call]), (1, 220, 0));
        assert_eq!(at(&mut drain, 219, &[call]), (1, 1, 0));
        assert_eq!(at(&mut drain, 220, &[call]), (0, 0, 0));
    }
}
