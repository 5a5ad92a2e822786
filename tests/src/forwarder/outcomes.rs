//! Which outcomes moved, and that no other did.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use forwarder_common::outcome::Outcome;

/// What one edge's programs counted, by the outcomes' names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes(BTreeMap<String, u64>);

impl Outcomes {
    /// The count of one outcome.
    #[must_use]
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// What moved since `before`, by name.
    #[must_use]
    pub fn moved(&self, before: &Self) -> BTreeMap<String, u64> {
        let grown = self.0.iter().map(|(name, count)| (name.clone(), count.saturating_sub(before.of(name))));
        grown.filter(|(_, count)| *count > 0).collect()
    }
}

impl FromIterator<(String, u64)> for Outcomes {
    fn from_iter<T: IntoIterator<Item = (String, u64)>>(counts: T) -> Self {
        Self(counts.into_iter().collect())
    }
}

/// The outcomes that move all the time where daemons talk to each other and hosts resolve their neighbours.
pub const BACKGROUND: [&str; 2] = [Outcome::NotService.name(), Outcome::EgressOther.name()];

/// Where packets of calls may end. What outruns its claim is held; nothing unknown is let through by the programs.
pub const CALLS: [&str; 15] = [
    Outcome::PuntedUnknownResponse.name(),
    Outcome::PuntedUnknownBranch.name(),
    Outcome::PuntedUnknownCancel.name(),
    Outcome::PuntedUnknownAck.name(),
    Outcome::SlowHeld.name(),
    Outcome::SlowLocal.name(),
    Outcome::SlowForwarded.name(),
    Outcome::SlowReleased.name(),
    Outcome::LocalOwner.name(),
    Outcome::LocalNew.name(),
    Outcome::Forwarded.name(),
    Outcome::Decapsulated.name(),
    Outcome::EgressClaimed.name(),
    Outcome::EgressOwner.name(),
    Outcome::EgressNoClaim.name(),
];

/// Fails unless exactly the named outcomes moved, by exactly so much, on one edge; the background is left out.
///
/// # Errors
/// Names both.
pub fn ensure_moved(what: &str, before: &Outcomes, after: &Outcomes, wanted: &[(&str, u64)]) -> Result<()> {
    ensure_known(what, wanted.iter().map(|(name, _)| *name))?;
    let mut moved = after.moved(before);
    moved.retain(|name, _| !BACKGROUND.contains(&name.as_str()));
    let wanted: BTreeMap<String, u64> = wanted.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    ensure!(moved == wanted, "{what}: the outcomes that moved are {moved:?}, not {wanted:?}");
    Ok(())
}

/// Fails where an outcome moved on an edge that is not named; for loads whose exact counts chance decides.
///
/// # Errors
/// Names the outcomes.
pub fn ensure_only_moved(what: &str, before: &[Outcomes], after: &[Outcomes], allowed: &[&str]) -> Result<()> {
    ensure_known(what, allowed.iter().copied())?;
    for (edge, (before, after)) in (1..).zip(before.iter().zip(after)) {
        let mut moved = after.moved(before);
        moved.retain(|name, _| !BACKGROUND.contains(&name.as_str()) && !allowed.contains(&name.as_str()));
        ensure!(moved.is_empty(), "{what}: at edge {edge} outcomes moved that must not: {moved:?}");
    }
    Ok(())
}

/// A name that no outcome has would allow nothing, and nobody would see that the list says less than it seems to.
fn ensure_known<'a>(what: &str, mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    let unknown = names.find(|name| Outcome::ALL.iter().all(|outcome| outcome.name() != *name));
    ensure!(unknown.is_none(), "{what}: no outcome is named {unknown:?}");
    Ok(())
}
