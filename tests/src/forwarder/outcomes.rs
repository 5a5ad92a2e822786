//! Which outcomes moved, and that no other did.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

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
pub const BACKGROUND: [&str; 2] = ["not_service", "egress_other"];

/// Where packets of calls may end. What outruns its claim is held; nothing unknown is let through by the programs.
pub const CALLS: [&str; 15] = [
    "punted_unknown_response",
    "punted_unknown_branch",
    "punted_unknown_cancel",
    "punted_unknown_ack",
    "slow_held",
    "slow_local",
    "slow_forwarded",
    "slow_released",
    "local_owner",
    "local_new",
    "forwarded",
    "decapsulated",
    "egress_claimed",
    "egress_owner",
    "egress_no_claim",
];

/// Fails unless exactly the named outcomes moved, by exactly so much, on one edge; the background is left out.
///
/// # Errors
/// Names both.
pub fn ensure_moved(what: &str, before: &Outcomes, after: &Outcomes, wanted: &[(&str, u64)]) -> Result<()> {
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
    for (edge, (before, after)) in (1..).zip(before.iter().zip(after)) {
        let mut moved = after.moved(before);
        moved.retain(|name, _| !BACKGROUND.contains(&name.as_str()) && !allowed.contains(&name.as_str()));
        ensure!(moved.is_empty(), "{what}: at edge {edge} outcomes moved that must not: {moved:?}");
    }
    Ok(())
}
