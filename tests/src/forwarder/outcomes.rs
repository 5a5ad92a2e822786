//! Which outcomes moved between two looks, and that no other did: one vocabulary for all tests.
//!
//! A test takes `before = cluster.outcomes()`, does something, and asks of `cluster.outcomes()?.since(&before)` either
//! exact counts (`exactly`) or, where time decides how many, the set of outcomes (`only`). A set has two lists: what
//! must have moved, and what may have because a race decides it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use forwarder_common::outcome::Outcome;

/// The outcomes that move all the time where daemons talk to each other, ask each other's programs, and hosts resolve
/// their neighbours.
pub const BACKGROUND: [&str; 5] = [
    Outcome::NotService.name(),
    Outcome::EgressOther.name(),
    Outcome::DecapAnswered.name(),
    Outcome::DecapAsked.name(),
    Outcome::DecapAnswer.name(),
];

/// What moves at every edge where calls are sprayed over all.
pub const CALLS: [&str; 7] = [
    Outcome::LocalOwner.name(),
    Outcome::LocalNew.name(),
    Outcome::Forwarded.name(),
    Outcome::Decapsulated.name(),
    Outcome::EgressClaimed.name(),
    Outcome::EgressOwner.name(),
    Outcome::EgressNoClaim.name(),
];

/// What moves beside [`CALLS`] where a message outruns its claim: it is held, and nothing unknown is let through.
pub const HELD: [&str; 8] = [
    Outcome::PuntedUnknownResponse.name(),
    Outcome::PuntedUnknownBranch.name(),
    Outcome::PuntedUnknownCancel.name(),
    Outcome::PuntedUnknownAck.name(),
    Outcome::SlowHeld.name(),
    Outcome::SlowLocal.name(),
    Outcome::SlowForwarded.name(),
    Outcome::SlowReleased.name(),
];

/// What moves beside [`CALLS`] at an edge whose daemon is away for less than a minute while peers' daemons live: the
/// programs send new requests, and what only a daemon finishes, to peers.
pub const DAEMON_AWAY: [&str; 2] = [Outcome::Diverted.name(), Outcome::Relayed.name()];

/// What may move with it, there and at the peers: claims that come late, and what meets a daemon that starts.
pub const CLAIMS_LATE: [&str; 4] = [
    Outcome::EgressForeign.name(),
    Outcome::SlowReceived.name(),
    Outcome::Unresolved.name(),
    Outcome::PuntedUnresolved.name(),
];

/// What may move where no daemon lives that could be asked: it passes.
pub const PASSED: [&str; 4] = [
    Outcome::UnknownResponse.name(),
    Outcome::UnknownBranch.name(),
    Outcome::UnknownCancel.name(),
    Outcome::UnknownAck.name(),
];

/// What one edge has counted so far, by the outcomes' names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes(BTreeMap<String, u64>);

impl Outcomes {
    /// The count of one outcome.
    #[must_use]
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// What moved from `before` to now. A daemon that was restarted meanwhile counts its own outcomes from zero.
    #[must_use]
    pub fn since(&self, before: &Self) -> Moved {
        let grown = self.0.iter().map(|(name, count)| {
            let before = before.of(name);
            (name.clone(), if *count < before { *count } else { count - before })
        });
        Moved(grown.filter(|(_, count)| *count > 0).collect())
    }
}

impl FromIterator<(String, u64)> for Outcomes {
    fn from_iter<T: IntoIterator<Item = (String, u64)>>(counts: T) -> Self {
        Self(counts.into_iter().collect())
    }
}

/// The outcomes that moved at one edge, and by how much; never zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved(BTreeMap<String, u64>);

impl Moved {
    /// By how much one outcome moved.
    #[must_use]
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Fails unless exactly the named outcomes moved, by exactly so much; the background is left out.
    ///
    /// # Errors
    /// Names both.
    pub fn exactly(&self, what: &str, wanted: &[(&str, u64)]) -> Result<()> {
        ensure_known(what, wanted.iter().map(|(name, _)| *name))?;
        let moved: BTreeMap<&str, u64> = self.names().into_iter().map(|name| (name, self.of(name))).collect();
        let wanted: BTreeMap<&str, u64> = wanted.iter().copied().collect();
        ensure!(moved == wanted, "{what}: the outcomes that moved are {moved:?}, not {wanted:?}");
        Ok(())
    }

    /// Fails unless all of `must` moved, and nothing else but what is in `may`; the background is left out.
    ///
    /// # Errors
    /// Names what did not move, or what else did.
    pub fn only(&self, what: &str, must: &[&str], may: &[&str]) -> Result<()> {
        ensure_known(what, must.iter().chain(may).copied())?;
        let moved = self.names();
        let missing: Vec<_> = must.iter().filter(|name| !moved.contains(**name)).collect();
        ensure!(missing.is_empty(), "{what}: {missing:?} did not move: {self:?}");
        let others: Vec<_> = moved.iter().filter(|name| !must.contains(name) && !may.contains(name)).collect();
        ensure!(others.is_empty(), "{what}: outcomes moved that must not, {others:?}: {self:?}");
        Ok(())
    }

    /// What moved here or there.
    fn join(mut self, other: &Self) -> Self {
        for (name, count) in &other.0 {
            *self.0.entry(name.clone()).or_default() += count;
        }
        self
    }

    fn names(&self) -> BTreeSet<&str> {
        self.0.keys().map(String::as_str).filter(|name| !BACKGROUND.contains(name)).collect()
    }
}

/// What all edges whose daemons answer have counted so far, by the edges' numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<u8, Outcomes>);

impl Snapshot {
    /// What moved from `before` to now, at the edges that are in both.
    #[must_use]
    pub fn since(&self, before: &Self) -> Moves {
        let edges = self.0.iter().filter_map(|(edge, now)| Some((*edge, now.since(before.0.get(edge)?))));
        Moves(edges.collect())
    }

    /// The count of one outcome at all edges together.
    #[must_use]
    pub fn sum(&self, name: &str) -> u64 {
        self.0.values().map(|edge| edge.of(name)).sum()
    }
}

impl FromIterator<(u8, Outcomes)> for Snapshot {
    fn from_iter<T: IntoIterator<Item = (u8, Outcomes)>>(edges: T) -> Self {
        Self(edges.into_iter().collect())
    }
}

/// The outcomes that moved, by the edges' numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves(BTreeMap<u8, Moved>);

impl Moves {
    /// Those at one edge.
    ///
    /// # Errors
    /// Its daemon did not answer at both looks.
    pub fn at(&self, edge: u8) -> Result<&Moved> {
        self.0.get(&edge).with_context(|| format!("find what moved at edge {edge}"))
    }

    /// By how much one outcome moved at all edges together.
    #[must_use]
    pub fn sum(&self, name: &str) -> u64 {
        self.0.values().map(|edge| edge.of(name)).sum()
    }

    /// [`Moved::exactly`] at every edge: the first list is that of the first edge.
    ///
    /// # Errors
    /// Names the edge and both; or there are more edges than lists.
    pub fn exactly(&self, what: &str, wanted: &[&[(&str, u64)]]) -> Result<()> {
        ensure!(self.0.len() == wanted.len(), "{what}: {} edges, {} lists", self.0.len(), wanted.len());
        self.0
            .iter()
            .zip(wanted)
            .try_for_each(|((edge, moved), wanted)| moved.exactly(&format!("{what}, at edge {edge}"), wanted))
    }

    /// [`Moved::only`] at every edge.
    ///
    /// # Errors
    /// Names the edge and what is wrong there.
    pub fn only(&self, what: &str, must: &[&str], may: &[&str]) -> Result<()> {
        ensure!(!self.0.is_empty(), "{what}: no daemon answers");
        self.0.iter().try_for_each(|(edge, moved)| moved.only(&format!("{what}, at edge {edge}"), must, may))
    }

    /// [`Moved::only`] of all edges together, where chance decides at which of them something moves.
    ///
    /// # Errors
    /// Names what is wrong.
    pub fn only_together(&self, what: &str, must: &[&str], may: &[&str]) -> Result<()> {
        self.0.values().fold(Moved::default(), Moved::join).only(what, must, may)
    }
}

/// A name that no outcome has would allow nothing, and nobody would see that the list says less than it seems to.
fn ensure_known<'a>(what: &str, mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    let unknown = names.find(|name| Outcome::ALL.iter().all(|outcome| outcome.name() != *name));
    ensure!(unknown.is_none(), "{what}: no outcome is named {unknown:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(counts: &[(&str, u64)]) -> Outcomes {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn a_set_is_missed_by_what_lacks_and_by_what_is_too_much() {
        let before = outcomes(&[("local_new", 3), ("forwarded", 7), ("not_service", 1), ("slow_held", 9)]);
        let after = outcomes(&[("local_new", 3), ("forwarded", 9), ("not_service", 5), ("slow_held", 2)]);
        let moved = after.since(&before);
        // The daemon was restarted: what it counts itself began anew.
        assert_eq!((moved.of("forwarded"), moved.of("slow_held"), moved.of("local_new")), (2, 2, 0));
        assert!(moved.only("both", &["forwarded", "slow_held"], &[]).is_ok());
        assert!(moved.only("one by chance", &["forwarded"], &["slow_held", "local_new"]).is_ok());
        assert!(moved.only("one too much", &["forwarded"], &[]).is_err());
        assert!(moved.only("one missing", &["forwarded", "slow_held", "local_new"], &[]).is_err());
        assert!(moved.only("no such name", &["forwarded", "slow_held"], &["local_nwe"]).is_err());
        assert!(moved.exactly("counts", &[("forwarded", 2), ("slow_held", 2)]).is_ok());
        assert!(moved.exactly("counts", &[("forwarded", 2)]).is_err());
    }

    #[test]
    fn edges_are_looked_at_one_by_one_or_together() {
        let edges = |one, two| {
            Snapshot::from_iter([(1, outcomes(&[("forwarded", one)])), (2, outcomes(&[("decapsulated", two)]))])
        };
        let moves = edges(4, 5).since(&edges(3, 3));
        assert!(moves.exactly("each", &[&[("forwarded", 1)], &[("decapsulated", 2)]]).is_ok());
        assert!(moves.only("each", &["forwarded"], &["decapsulated"]).is_err());
        assert!(moves.only_together("both", &["forwarded", "decapsulated"], &[]).is_ok());
        assert_eq!((moves.sum("forwarded"), edges(4, 5).sum("decapsulated")), (1, 5));
    }
}
