//! What happens when: a list of faults that a seed gives, or a file.
//!
//! Each kind of fault comes once before any comes again. Two edges at most are impaired at a time, and each has a
//! moment of rest after its fault; of what the network does to all, one thing at a time.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use anyhow::{Context as _, Result};
use fastrand::Rng;

use super::fault::Fault;

/// Pause between two faults, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 500..2500;
/// Nothing happens before, in milliseconds: all daemons are linked, and the first calls are over.
const CALM_MS: u64 = 5000;
/// All faults are over for so long at the end, in milliseconds.
const REST_MS: u64 = 12_000;
/// How long an edge has its rest after a fault, in milliseconds.
const RECOVERY_MS: u64 = 2500;
/// Edges that may be impaired at the same time.
const IMPAIRED: usize = 2;
/// How long a rotation has the network for itself, in milliseconds: three steps, which all daemons take up.
const ROTATION_MS: u64 = 10_000;

/// One fault with its times, in milliseconds from the soak's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it begins.
    pub at_ms: u64,
    /// How long it lasts.
    pub for_ms: u64,
    /// What it is.
    pub fault: Fault,
}

impl Entry {
    /// When it ends.
    #[must_use]
    pub const fn end_ms(&self) -> u64 {
        self.at_ms + self.for_ms
    }
}

/// All faults of a soak, in the order of their beginnings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule(pub Vec<Entry>);

impl Schedule {
    /// The schedule of a seed, for a soak of so many seconds over so many edges; faults end before it does.
    #[must_use]
    pub fn of(seed: u64, seconds: u64, edges: u8) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (mut entries, mut bag): (Vec<Entry>, Vec<Kind>) = (Vec::new(), Vec::new());
        let end_ms = (seconds * 1000).saturating_sub(REST_MS);
        let mut at_ms = CALM_MS;
        while at_ms < end_ms {
            if bag.is_empty() {
                bag = Kind::ALL.to_vec();
                rng.shuffle(&mut bag);
            }
            // The first that can begin now; the others keep their places.
            let found = (0..bag.len()).find_map(|place| {
                let kind = *bag.get(place)?;
                Some((place, one(kind, &mut rng, at_ms, end_ms, edges, &entries)?))
            });
            if let Some((place, entry)) = found {
                bag.remove(place);
                entries.push(entry);
            }
            at_ms += rng.u64(PAUSE_MS);
        }
        Self(entries)
    }
}

/// A fault without its edge and numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    KillDaemon,
    StopDaemon,
    Upgrade,
    Skew,
    Stall,
    KillProxy,
    Flap,
    CutHost,
    CutLinks,
    CutTunnel,
    Drain,
    LoseLinks,
    LoseTunnel,
    DelayLinks,
    DelayTunnel,
    Rotate,
}

impl Kind {
    /// All, the deaths of daemons twice.
    const ALL: [Self; 17] = [
        Self::KillDaemon,
        Self::KillDaemon,
        Self::StopDaemon,
        Self::Upgrade,
        Self::Skew,
        Self::Stall,
        Self::KillProxy,
        Self::Flap,
        Self::CutHost,
        Self::CutLinks,
        Self::CutTunnel,
        Self::Drain,
        Self::LoseLinks,
        Self::LoseTunnel,
        Self::DelayLinks,
        Self::DelayTunnel,
        Self::Rotate,
    ];

    /// How long it may last, in milliseconds.
    const fn lasts(self) -> RangeInclusive<u64> {
        match self {
            Self::KillDaemon | Self::StopDaemon => 200..=12_000,
            // Until the daemon is up again, which is part of the fault.
            Self::Upgrade | Self::Skew => 1500..=1500,
            Self::Stall => 200..=5000,
            Self::KillProxy | Self::CutHost => 500..=5000,
            Self::Flap | Self::CutTunnel => 200..=4000,
            Self::CutLinks => 500..=8000,
            Self::Drain => 2000..=10_000,
            Self::LoseLinks | Self::LoseTunnel | Self::DelayLinks | Self::DelayTunnel => 3000..=9000,
            Self::Rotate => ROTATION_MS..=ROTATION_MS,
        }
    }

    /// The fault with numbers by chance.
    fn fault(self, rng: &mut Rng, edge: u8) -> Fault {
        match self {
            Self::KillDaemon => Fault::KillDaemon(edge),
            Self::StopDaemon => Fault::StopDaemon(edge),
            Self::Upgrade => Fault::Upgrade(edge),
            Self::Skew => Fault::Skew(edge, rng.i32(-1800..=1800)),
            Self::Stall => Fault::Stall(edge),
            Self::KillProxy => Fault::KillProxy(edge),
            Self::Flap => Fault::Flap(edge),
            Self::CutHost => Fault::CutHost(edge),
            Self::CutLinks => Fault::CutLinks(edge),
            Self::CutTunnel => Fault::CutTunnel(edge),
            Self::Drain => Fault::Drain(edge),
            Self::LoseLinks => Fault::LoseLinks(rng.u8(2..=20)),
            Self::LoseTunnel => Fault::LoseTunnel(rng.u8(2..=10)),
            Self::DelayLinks => Fault::DelayLinks(rng.u16(10..=80)),
            Self::DelayTunnel => Fault::DelayTunnel(rng.u16(10..=80)),
            Self::Rotate => Fault::Rotate,
        }
    }

    const fn is_of_an_edge(self) -> bool {
        !matches!(self, Self::LoseLinks | Self::LoseTunnel | Self::DelayLinks | Self::DelayTunnel | Self::Rotate)
    }
}

/// A fault that begins at a time, if one of that kind may.
fn one(kind: Kind, rng: &mut Rng, at_ms: u64, end_ms: u64, edges: u8, before: &[Entry]) -> Option<Entry> {
    let (shortest, longest) = (*kind.lasts().start() as f64, *kind.lasts().end() as f64);
    // As many below the middle of the orders of magnitude as above.
    let for_ms = (shortest * (longest / shortest).powf(rng.f64())) as u64;
    if at_ms + for_ms > end_ms {
        return None;
    }
    let goes_on = |entry: &&Entry| entry.end_ms() + RECOVERY_MS > at_ms;
    let busy: Vec<u8> = before.iter().filter(goes_on).filter_map(|entry| entry.fault.edge()).collect();
    let network = before.iter().any(|entry| entry.end_ms() > at_ms && entry.fault.edge().is_none());
    if !kind.is_of_an_edge() {
        return (!network).then(|| Entry { at_ms, for_ms, fault: kind.fault(rng, 0) });
    }
    let free: Vec<u8> = (1..=edges).filter(|edge| !busy.contains(edge)).collect();
    if busy.len() >= IMPAIRED || free.is_empty() {
        return None;
    }
    let edge = rng.choice(free)?;
    Some(Entry { at_ms, for_ms, fault: kind.fault(rng, edge) })
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|Entry { at_ms, for_ms, fault }| writeln!(f, "{at_ms} {for_ms} {fault}"))
    }
}

impl FromStr for Schedule {
    type Err = anyhow::Error;

    /// Reads a line for each fault: beginning and length in milliseconds, its word, its numbers.
    fn from_str(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let entry = |line: &str| -> Result<Entry> {
            let (at, rest) = line.split_once(' ').context("read when it begins")?;
            let (length, fault) = rest.split_once(' ').context("read how long it lasts")?;
            Ok(Entry { at_ms: at.parse()?, for_ms: length.parse()?, fault: fault.parse()? })
        };
        let mut entries: Vec<Entry> =
            lines.map(|line| entry(line).with_context(|| format!("read {line:?}"))).collect::<Result<_>>()?;
        entries.sort_by_key(|entry| entry.at_ms);
        Ok(Self(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_schedule_and_its_text_reads_back() -> Result<()> {
        let schedule = Schedule::of(7, 600, 5);
        assert_eq!(schedule, Schedule::of(7, 600, 5));
        assert_ne!(schedule, Schedule::of(8, 600, 5));
        assert_eq!(schedule.to_string().parse::<Schedule>()?, schedule);
        assert!("1 2 fly 3".parse::<Schedule>().is_err());
        Ok(())
    }

    #[test]
    fn no_more_than_two_edges_are_impaired_and_all_faults_end_before_the_soak() {
        for seed in 0..50 {
            let Schedule(entries) = Schedule::of(seed, 300, 5);
            for entry in &entries {
                let at_once = entries.iter().filter(|other| {
                    other.fault.edge().is_some() && other.at_ms <= entry.at_ms && entry.at_ms < other.end_ms()
                });
                assert!(at_once.count() <= IMPAIRED, "seed {seed}, at {}", entry.at_ms);
                assert!(entry.end_ms() <= 300_000 - REST_MS, "seed {seed}: {entry:?}");
            }
            let kinds: std::collections::BTreeSet<&str> = entries.iter().map(|entry| entry.fault.word()).collect();
            assert_eq!(kinds.len(), 16, "seed {seed}: {kinds:?}");
        }
    }
}
