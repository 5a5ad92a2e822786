//! The ways to the peers through the tunnel, tried all the time: whether a peer's programs answer, how long that takes,
//! and what its clock shows meanwhile.
//!
//! A question has a ticket that comes back with the answer, so that an old answer is told from a new one.

use std::collections::BTreeMap;

use forwarder_common::{
    clock::{Clock, Time},
    ids::NodeId,
};

use super::timers::{GRACE_PROBE_US, PROBE_US};

/// A clock that is nearer than that to what is known of it is not told of, in its units: about 50 ms.
const DRIFT: u32 = 48;

/// What is known of the way to one peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    /// When it answered last, in microseconds of the monotonic clock.
    pub answered_us: Option<u64>,
    /// How long that took, in microseconds.
    pub round_trip_us: u64,
    /// The peer's clock, as last told.
    clock: Clock,
    /// The question that is on its way: its ticket, and when it was sent.
    asked: Option<(u32, u64)>,
    due_us: u64,
}

impl Path {
    /// The peer's clock, as last told.
    #[must_use]
    pub const fn clock(&self) -> Clock {
        self.clock
    }
}

/// The ways to all peers.
#[derive(Debug)]
pub(super) struct Paths {
    paths: BTreeMap<NodeId, Path>,
    next: u32,
    /// When the next question is due; it is asked for in each turn of the loop.
    due_us: Option<u64>,
}

impl Paths {
    /// The first ticket is to be one that nobody can foresee.
    pub(super) const fn new(first_ticket: u32) -> Self {
        Self { paths: BTreeMap::new(), next: first_ticket, due_us: None }
    }

    pub(super) fn get(&self, peer: NodeId) -> Option<&Path> {
        self.paths.get(&peer)
    }

    /// The peer is to be asked from now on, at once: more often where its programs alone can say that it goes on.
    pub(super) fn begin(&mut self, peer: NodeId, now_us: u64) {
        self.paths.entry(peer).or_default().due_us = now_us;
        self.changed();
    }

    /// All are to be asked at once: this host may have stalled with its clock.
    pub(super) fn again(&mut self, now_us: u64) {
        for path in self.paths.values_mut() {
            path.due_us = now_us;
        }
        self.changed();
    }

    /// The peer is not asked any more.
    pub(super) fn end(&mut self, peer: NodeId) {
        self.paths.remove(&peer);
        self.changed();
    }

    /// The questions that are due, as peers and tickets.
    pub(super) fn due(&mut self, now_us: u64, is_in_grace: impl Fn(NodeId) -> bool) -> Vec<(NodeId, u32)> {
        let mut questions = Vec::new();
        if self.due_us.is_none_or(|due_us| due_us > now_us) {
            return questions;
        }
        for (peer, path) in self.paths.iter_mut().filter(|(_, path)| path.due_us <= now_us) {
            let pause_us = if is_in_grace(*peer) { GRACE_PROBE_US } else { PROBE_US };
            (path.asked, path.due_us) = (Some((self.next, now_us)), now_us.saturating_add(pause_us));
            questions.push((*peer, self.next));
            self.next = self.next.wrapping_add(1);
        }
        self.changed();
        questions
    }

    /// When the next question is due, in microseconds of the monotonic clock.
    pub(super) const fn due_us(&self) -> Option<u64> {
        self.due_us
    }

    fn changed(&mut self) {
        self.due_us = self.paths.values().map(|path| path.due_us).min();
    }

    /// A peer's programs have answered at `theirs` of their clock: the peer's clock if it is another than was known.
    /// `None`: it is no answer to the question that is on its way.
    pub(super) fn answered(&mut self, peer: NodeId, ticket: u32, theirs: Time, now_us: u64) -> Option<Option<Clock>> {
        let path = self.paths.get_mut(&peer)?;
        let (_, sent_us) = path.asked.take_if(|(asked, _)| *asked == ticket)?;
        (path.answered_us, path.round_trip_us) = (Some(now_us), now_us.saturating_sub(sent_us));
        let ours = Time::at((sent_us + path.round_trip_us / 2).saturating_mul(1000));
        let clock = Clock::new(theirs, ours);
        let is_known = path.clock != Clock::UNKNOWN && clock.distance(path.clock) < DRIFT;
        if !is_known {
            path.clock = clock;
        }
        Some((!is_known).then_some(clock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> NodeId {
        NodeId::new(number).unwrap()
    }

    #[test]
    fn a_peer_is_asked_each_second_and_in_grace_more_often() {
        let mut paths = Paths::new(u32::MAX);
        assert_eq!((paths.due_us(), paths.due(0, |_| false)), (None, vec![]));
        paths.begin(id(2), 5);
        paths.begin(id(3), 5);
        assert_eq!(paths.due(5, |peer| peer == id(3)), [(id(2), u32::MAX), (id(3), 0)]);
        assert_eq!(paths.due_us(), Some(5 + GRACE_PROBE_US));
        assert_eq!(paths.due(5 + GRACE_PROBE_US, |peer| peer == id(3)), [(id(3), 1)]);
        paths.end(id(3));
        assert_eq!(paths.due_us(), Some(5 + PROBE_US));
        paths.again(6);
        assert_eq!(paths.due_us(), Some(6));
    }

    #[test]
    fn an_answer_tells_the_clock_once_and_again_when_it_has_jumped() {
        let unit_us = (1 << 20) / 1000;
        let mut paths = Paths::new(9);
        paths.begin(id(2), 0);
        let (mut now_us, mut ticket) = (0, 9);
        let mut ask = |paths: &mut Paths, theirs: u32| {
            paths.again(now_us);
            paths.due(now_us, |_| false);
            let sent_us = now_us;
            now_us += 20 * unit_us;
            let told = paths.answered(id(2), ticket, Time(theirs), now_us);
            ticket += 1;
            (told, Time::at((sent_us + 10 * unit_us) * 1000).0)
        };
        let (first, ours) = ask(&mut paths, 5000);
        assert_eq!(first, Some(Some(Clock(5000 - ours))));
        let (second, _) = ask(&mut paths, 5020);
        assert_eq!(second, Some(None));
        let (third, ours) = ask(&mut paths, 1_005_040);
        assert_eq!(third, Some(Some(Clock(1_005_040 - ours))));
        assert_eq!(paths.get(id(2)).unwrap().round_trip_us, 20 * unit_us);
    }

    #[test]
    fn an_answer_counts_once_and_only_with_the_ticket_of_the_last_question() {
        let mut paths = Paths::new(9);
        paths.begin(id(2), 0);
        paths.due(0, |_| false);
        paths.due(PROBE_US, |_| false);
        assert_eq!(paths.answered(id(2), 9, Time(1), PROBE_US), None, "of the question before");
        assert_eq!(paths.answered(id(3), 10, Time(1), PROBE_US), None, "of nobody that was asked");
        assert!(paths.answered(id(2), 10, Time(1), PROBE_US).is_some());
        assert_eq!(paths.answered(id(2), 10, Time(1), PROBE_US), None, "a replay");
    }
}
