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
}

impl Report {
    /// Judges all calls.
    #[must_use]
    pub fn new(seed: u64, seconds: u64, calls: &[Dossier], done: Vec<Done>) -> Self {
        let lost = calls.iter().filter(|call| !call.completed);
        let lost = lost.map(|call| (call.clone(), judge(call, &done))).collect();
        Self { seed, seconds, calls: calls.len(), done, lost }
    }

    /// The calls that were lost without an excuse, with what went on.
    pub fn inexcusable(&self) -> impl Iterator<Item = (&Dossier, &str)> {
        self.lost.iter().filter_map(|(call, verdict)| match verdict {
            Verdict::Inexcusable(label) => Some((call, label.as_str())),
            Verdict::ProxyDied | Verdict::PathCut => None,
        })
    }

    fn count(&self, wanted: &Verdict) -> usize {
        self.lost.iter().filter(|(_, verdict)| verdict == wanted).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, seconds, calls, lost, done } = self;
        writeln!(f, "seed {seed}, {seconds} s, {calls} calls, {} faults", done.len())?;
        let mut faults: BTreeMap<&str, u32> = BTreeMap::new();
        done.iter().for_each(|done| *faults.entry(done.fault.word()).or_default() += 1);
        let faults: Vec<String> = faults.iter().map(|(word, count)| format!("{word} {count}")).collect();
        writeln!(f, "faults: {}", faults.join(", "))?;
        let inexcusable = self.inexcusable().count();
        writeln!(f, "lost: {}, of these", lost.len())?;
        writeln!(f, "{:>8}  excusable: the proxy that owned it died", self.count(&Verdict::ProxyDied))?;
        writeln!(f, "{:>8}  excusable: it needed a path that was cut", self.count(&Verdict::PathCut))?;
        writeln!(f, "{inexcusable:>8}  INEXCUSABLE")?;
        let mut labels: BTreeMap<&str, u32> = BTreeMap::new();
        self.inexcusable().for_each(|(_, label)| *labels.entry(label).or_default() += 1);
        labels.iter().try_for_each(|(label, count)| writeln!(f, "{count:>16}  {label}"))
    }
}
