//! How far a drain has come: which of the node's claims are still waited for.
//!
//! Waited for are the claims of the transactions that were in flight when the drain began. A proxy that begins
//! transactions by itself, such as pings to its peers, claims all the time, and would never be drained.

use std::collections::BTreeMap;

use forwarder_common::table::Entry;

/// What a drain waits for.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// By their places in the table; not known before somebody asks.
    noted: Option<BTreeMap<usize, Entry>>,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Claims that are waited for.
    pub(super) claims: u64,
    /// Ticks until the last of them ends.
    pub(super) ticks: u64,
    /// Claims of transactions that have begun since.
    pub(super) since: u64,
}

impl Drain {
    /// The node's claims are these now, each with its place and the ticks that are left of it; `begins` while
    /// transactions that were in flight when the drain began may still make their first claim.
    pub(super) fn progress(&mut self, own: impl Iterator<Item = (usize, Entry, u64)>, begins: bool) -> Progress {
        let own: BTreeMap<_, _> = own.map(|(place, entry, ticks)| (place, (entry, ticks))).collect();
        let noted = match self.noted.take().filter(|_| !begins) {
            // The key's bits stand where an entry has its tag.
            Some(noted) => noted.into_iter().filter(|(place, was)| is_same(&own, *place, *was)).collect(),
            None => own.iter().map(|(place, (entry, _))| (*place, *entry)).collect::<BTreeMap<_, _>>(),
        };
        let ticks = noted.keys().filter_map(|place| own.get(place)).map(|(_, ticks)| *ticks).max();
        let claims = noted.len() as u64;
        self.noted = Some(noted);
        Progress { claims, ticks: ticks.unwrap_or_default(), since: own.len() as u64 - claims }
    }
}

fn is_same(own: &BTreeMap<usize, (Entry, u64)>, place: usize, was: Entry) -> bool {
    own.get(&place).is_some_and(|(entry, _)| entry.matches(was.0))
}

#[cfg(test)]
mod tests {
    use forwarder_common::ids::Tick;

    use super::*;

    /// A claim of node 1 on a key, at a place, with so many ticks left.
    fn claim(place: usize, key: u64, ticks: u16) -> (usize, Entry, u64) {
        (place, Entry::new(key << 40, 1, 0, Tick::new(100).after(ticks)), u64::from(ticks))
    }

    #[test]
    fn what_begins_after_the_drain_is_counted_and_not_waited_for() {
        let mut drain = Drain::default();
        let mut progress = |own: &[(usize, Entry, u64)], begins| {
            let Progress { claims, ticks, since } = drain.progress(own.iter().copied(), begins);
            (claims, ticks, since)
        };
        assert_eq!(progress(&[claim(1, 1, 9)], true), (1, 9, 0));
        assert_eq!(progress(&[claim(1, 1, 8), claim(2, 2, 10)], true), (2, 10, 0), "it was in flight");
        assert_eq!(
            progress(&[claim(1, 1, 50), claim(2, 2, 9), claim(3, 3, 60)], false),
            (2, 50, 1),
            "one was made longer"
        );
        assert_eq!(progress(&[claim(1, 4, 70), claim(2, 2, 8)], false), (1, 8, 1), "another key in the same place");
        assert_eq!(progress(&[claim(1, 1, 70)], false), (0, 0, 1), "an end is an end");
    }

    #[test]
    fn who_asks_late_waits_for_what_is_there_then() {
        let mut drain = Drain::default();
        let progress = drain.progress([claim(1, 1, 9)].into_iter(), false);
        assert_eq!(progress, Progress { claims: 1, ticks: 9, since: 0 });
        assert_eq!(drain.progress([claim(2, 2, 9)].into_iter(), false).claims, 0);
    }
}
