//! What a soak has shown.

use std::collections::BTreeMap;
use std::fmt;

use super::call::Dossier;
use super::injector::Done;
use super::oracle::{Verdict, judge};

/// What became of the calls of a soak, and what was done to it.
#[derive(Debug)]
pub struct Report {
    /// The seed of its schedule.
    pub seed: u64,
    /// Seconds of calls.
    pub seconds: u64,
    /// Calls in all.
    pub calls: usize,
    /// What was done.
    pub done: Vec<Done>,
    /// The calls that did not go to their end, with what the oracle says.
    pub lost: Vec<(Dossier, Verdict)>,
    /// The calls of which a message met a wrong proxy, lost or not, with what the oracle says.
    pub astray: Vec<(Dossier, Verdict)>,
}

impl Report {
    /// Judges all calls.
    #[must_use]
    pub fn new(seed: u64, seconds: u64, calls: &[Dossier], done: Vec<Done>) -> Self {
        let judged = |call: &Dossier| (call.clone(), judge(call, &done));
        let lost = calls.iter().filter(|call| !call.completed).map(judged).collect();
        let astray = calls.iter().filter(|call| call.went_astray()).map(judged).collect();
        Self { seed, seconds, calls: calls.len(), done, lost, astray }
    }

    /// The calls that were lost without an excuse, with what went on.
    pub fn inexcusable(&self) -> impl Iterator<Item = (&Dossier, &str)> {
        self.lost.iter().filter_map(|(call, verdict)| match verdict {
            Verdict::Inexcusable(label) => Some((call, label.as_str())),
            Verdict::ProxyDied | Verdict::PathCut => None,
        })
    }
}

/// The labels of lost calls in few words, each once with its number.
#[must_use]
pub fn counted<'a>(labels: impl IntoIterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    labels.into_iter().for_each(|label| *counts.entry(label).or_default() += 1);
    let counts: Vec<String> = counts.iter().map(|(label, count)| format!("{count} {label}")).collect();
    counts.join(", ")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, seconds, calls, lost, astray, done } = self;
        writeln!(f, "seed {seed}, {seconds} s, {calls} calls, {} faults", done.len())?;
        writeln!(f, "faults: {}", counted(done.iter().map(|done| done.fault.word())))?;
        writeln!(f, "lost: {}, of these", lost.len())?;
        write_verdicts(f, lost.iter().map(|(_, verdict)| verdict))?;
        writeln!(f, "with a message at a wrong proxy, lost or not: {}, of these", astray.len())?;
        write_verdicts(f, astray.iter().map(|(_, verdict)| verdict))
    }
}

/// How many there are of each, and for those without an excuse of each label.
fn write_verdicts<'a>(f: &mut fmt::Formatter<'_>, verdicts: impl Iterator<Item = &'a Verdict>) -> fmt::Result {
    let mut counts: BTreeMap<&Verdict, u32> = BTreeMap::new();
    verdicts.for_each(|verdict| *counts.entry(verdict).or_default() += 1);
    let count = |wanted: &Verdict| counts.get(wanted).copied().unwrap_or_default();
    writeln!(f, "{:>8}  excusable: the proxy that owned it died", count(&Verdict::ProxyDied))?;
    writeln!(f, "{:>8}  excusable: it needed a path that was cut", count(&Verdict::PathCut))?;
    let without = || counts.iter().filter(|(verdict, _)| !verdict.is_excusable());
    writeln!(f, "{:>8}  INEXCUSABLE", without().map(|(_, count)| count).sum::<u32>())?;
    without().try_for_each(|(verdict, count)| match verdict {
        Verdict::Inexcusable(label) => writeln!(f, "{count:>16}  {label}"),
        Verdict::ProxyDied | Verdict::PathCut => Ok(()),
    })
}
