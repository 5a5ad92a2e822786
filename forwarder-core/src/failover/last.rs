//! Who stays up while proxies are silent: a flood that silences all of them must not take the VIP from everywhere.
//!
//! Each node ranks those that could be up, itself among them, by what they have said: first those whose proxies answer,
//! then those that are up with silent ones, then the rest, each by node id. A silent node stays up, or comes up again,
//! while fewer than `keep_up` rank before it. It changes only when that has held for [`LAST_US`], in which every word
//! that was on its way arrives: so of two that fall silent at once each knows of the other before either goes. Only
//! silence is forgiven: a proxy without a socket, or an operator's word, takes its node out whoever else is up.

use forwarder_common::ids::NodeId;

use super::timers::LAST_US;

/// One node that is up, or could be in spite of its silent proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    /// Its proxies are silent. Those whose proxies answer come first.
    pub(super) is_silent: bool,
    /// It is not up. Those that are come first, so that nobody goes for one that would have to come first.
    pub(super) is_out: bool,
    pub(super) id: NodeId,
}

/// Whether this node is to be up while its proxies are silent.
#[derive(Debug)]
pub(super) struct Last {
    keep_up: usize,
    /// Since when it is to be up and is not, or the other way round, in microseconds of the monotonic clock.
    since_us: Option<u64>,
}

impl Last {
    pub(super) const fn new(keep_up: usize) -> Self {
        Self { keep_up, since_us: None }
    }

    /// Whether a silent node is to be up, by what is known now.
    pub(super) fn stays(&self, me: Candidate, others: impl Iterator<Item = Candidate>) -> bool {
        others.filter(|other| *other < me).take(self.keep_up).count() < self.keep_up
    }

    /// Whether a silent node is up from now on, that is or is not, and that is to be so.
    pub(super) fn settle(&mut self, is_up: bool, stays: bool, now_us: u64) -> bool {
        if is_up == stays {
            self.since_us = None;
            return is_up;
        }
        let since_us = *self.since_us.get_or_insert(now_us);
        let wait_us = if self.keep_up == 0 { 0 } else { LAST_US };
        if now_us.saturating_sub(since_us) < wait_us {
            return is_up;
        }
        self.since_us = None;
        stays
    }

    /// The proxies answer, or something else says how the node is.
    pub(super) const fn reset(&mut self) {
        self.since_us = None;
    }

    /// The loop was late by so much: what arrived meanwhile is not read yet.
    pub(super) fn lengthen(&mut self, by_us: u64) {
        self.since_us = self.since_us.map(|since_us| since_us.saturating_add(by_us));
    }

    /// When the node changes, in microseconds of the monotonic clock.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.since_us.map(|since_us| since_us.saturating_add(LAST_US))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: u16, is_silent: bool, is_out: bool) -> Candidate {
        Candidate { is_silent, is_out, id: NodeId::new(id).unwrap() }
    }

    /// Node 5, silent and up or out, beside others: `a` answers, `s` is silent and up, `o` silent and out.
    fn stays(keep_up: usize, is_out: bool, others: &[(u16, char)]) -> bool {
        let others = others.iter().map(|(id, how)| candidate(*id, *how != 'a', *how == 'o'));
        Last::new(keep_up).stays(candidate(5, true, is_out), others)
    }

    #[test]
    fn those_whose_proxies_answer_come_first_then_those_that_are_up_then_the_lowest() {
        type Row = (usize, bool, &'static [(u16, char)], bool);
        let table: [Row; 15] = [
            (0, false, &[], false),
            (1, false, &[], true),
            (1, true, &[], true),
            (1, false, &[(9, 'a')], false),
            (1, false, &[(4, 's')], false),
            (1, false, &[(9, 's')], true),
            (1, false, &[(4, 'o'), (9, 'o')], true),
            (1, true, &[(9, 's')], false),
            (1, true, &[(4, 'o')], false),
            (1, true, &[(9, 'o')], true),
            (2, false, &[(9, 'a')], true),
            (2, false, &[(8, 'a'), (9, 'a')], false),
            (2, false, &[(9, 'a'), (4, 's')], false),
            (2, false, &[(4, 's'), (9, 's')], true),
            (usize::MAX, true, &[(1, 'a'), (2, 'a')], true),
        ];
        for (keep_up, is_out, others, expected) in table {
            assert_eq!(stays(keep_up, is_out, others), expected, "{keep_up} {is_out} {others:?}");
        }
    }

    #[test]
    fn a_change_waits_until_it_has_held_for_a_while_and_for_longer_after_a_stall() {
        let mut last = Last::new(1);
        assert!(last.settle(true, false, 5) && last.settle(true, false, 4 + LAST_US));
        assert!(last.settle(true, true, 5 + LAST_US), "somebody else went first");
        assert!(last.settle(true, false, 10 + LAST_US));
        assert_eq!(last.due_us(), Some(10 + 2 * LAST_US));
        last.lengthen(7);
        assert!(last.settle(true, false, 16 + 2 * LAST_US) && !last.settle(true, false, 17 + 2 * LAST_US));
        assert!(!last.settle(false, true, 0) && last.settle(false, true, LAST_US), "the way back is the same");
        assert!(!Last::new(0).settle(true, false, 5), "nobody is to be waited for");
    }
}
