//! Rounds: all rows one after the other, again and again, so that what disturbs the machine disturbs all of them.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::{
    feed::Feed,
    kernel::{Forwarder, Yardstick},
    rows::{self, Row, Which},
};

/// How long the runs of one row in one round take together, in nanoseconds.
const ROUND_NS: f64 = 3e6;
/// Runs of a row that tell how many it can have.
const FIRST_RUNS: u32 = 500;

/// The figures of one row.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) name: String,
    /// Nanoseconds a packet, the feeding taken off: one a round.
    pub(crate) rounds: Vec<f64>,
    /// The smallest of them, each part's smallest taken.
    pub(crate) minimum: f64,
    pub(crate) limit: Option<f64>,
}

impl Figures {
    /// The median of the rounds.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// A quantile of the rounds.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (sorted.len().saturating_sub(1) as f64 * part).round() as usize;
        sorted.get(at).copied().unwrap_or(f64::NAN)
    }
}

struct Measured {
    row: Row,
    repeat: u32,
    with: Vec<f64>,
    /// The same with nothing fed.
    without: Vec<f64>,
}

/// All that is loaded.
pub(crate) struct Machine {
    yardstick: Yardstick,
    forwarders: BTreeMap<Which, Forwarder>,
}

impl Machine {
    /// Loads what the rows need.
    pub(crate) fn load(object: &Path, yardstick: &Path, rows: &[Row]) -> Result<Self> {
        let mut forwarders = BTreeMap::new();
        for which in [Which::Four, Which::Six, Which::Fresh] {
            if rows.iter().any(|row| row.which == which) {
                let forwarder = Forwarder::load(object, 2 * rows::CALLS, which == Which::Six)?;
                rows::claim_all(&forwarder);
                forwarders.insert(which, forwarder);
            }
        }
        let mut yardstick = Yardstick::load(yardstick, rows::SLOTS, 2 * rows::FLOWS)?;
        if rows.iter().any(|row| row.program == "balancer") {
            rows::add_flows(&mut yardstick)?;
        }
        Ok(Self { yardstick, forwarders })
    }

    fn forwarder(&self, which: Which) -> Result<&Forwarder> {
        self.forwarders.get(&which).context("find the forwarder of a row")
    }

    /// Nanoseconds a run and what the program returned.
    fn run(&mut self, row: &Row, repeat: u32) -> Result<f64> {
        let ran = match (&row.feeding, row.which) {
            (None, Which::Yardstick) => self.yardstick.run(row.program, &row.frame, repeat)?,
            (None, which) => self.forwarder(which)?.run(row.program, &row.frame, repeat)?,
            // Programs that draw their own keys.
            (Some(feeding), Which::Yardstick) if row.fill.is_some() => {
                self.yardstick.set_feed(feeding.feed, &[])?;
                self.yardstick.run(row.program, &row.frame, repeat)?
            }
            (Some(feeding), which) => {
                let fd = match which {
                    Which::Yardstick => self.yardstick.fd(row.program)?,
                    which => self.forwarder(which)?.fd(row.program)?,
                };
                self.yardstick.set_next(row.feeder(), &fd)?;
                self.yardstick.set_feed(Feed { state: 1, ..feeding.feed }, &feeding.texts)?;
                self.yardstick.run(row.feeder(), &row.frame, repeat)?
            }
        };
        Ok(ran.0)
    }

    fn before(&mut self, row: &Row) -> Result<()> {
        if row.which == Which::Fresh {
            let forwarder = self.forwarder(Which::Fresh)?;
            forwarder.table.clear();
            rows::claim_all(forwarder);
        }
        for forwarder in self.forwarders.values_mut() {
            forwarder.drain();
        }
        match row.fill {
            Some(count) => self.yardstick.fill(count),
            None => Ok(()),
        }
    }

    /// Every packet of a row ends as the row says.
    fn check(&mut self, row: &Row) -> Result<f64> {
        let (Some(outcome), which) = (row.outcome, row.which) else { return self.run(row, FIRST_RUNS) };
        self.run(row, 1)?;
        let before = self.forwarder(which)?.outcomes()?;
        let first = self.run(row, FIRST_RUNS)?;
        let after = self.forwarder(which)?.outcomes()?;
        let moved: Vec<_> = after
            .iter()
            .filter_map(|(name, count)| Some((*name, count - before.get(name)?)).filter(|(_, moved)| *moved != 0))
            .collect();
        // The first of the repeated runs of a counting row meets the claim of the run before.
        let expected = moved.iter().any(|(name, count)| *name == outcome && *count + 1 >= u64::from(FIRST_RUNS));
        ensure!(expected, "{}: packets should end as {outcome}, but ended as {moved:?}", row.name);
        Ok(first)
    }

    /// Measures all rows in so many rounds.
    pub(crate) fn measure(&mut self, rows: &[Row], count: usize, progress: impl Fn(usize)) -> Result<Vec<Figures>> {
        let mut all = Vec::new();
        for row in rows.iter().cloned() {
            self.before(&row)?;
            let first = self.check(&row).with_context(|| row.name.clone())?;
            let repeat = if row.repeat != 0 { row.repeat } else { (ROUND_NS / first.max(20.0)) as u32 };
            all.push(Measured { row, repeat, with: Vec::new(), without: Vec::new() });
        }
        for round in 0..count {
            progress(round);
            for measured in &mut all {
                self.before(&measured.row)?;
                // Each row's first runs are not counted: they load its code and its maps.
                self.run(&measured.row, FIRST_RUNS)?;
                measured.with.push(self.run(&measured.row, measured.repeat)?);
                if measured.row.feeding.is_some() && measured.row.fill.is_none() {
                    let alone = measured.row.feeding_alone();
                    self.run(&alone, FIRST_RUNS)?;
                    measured.without.push(self.run(&alone, measured.repeat)?);
                }
            }
        }
        Ok(figures(&all))
    }
}

/// Takes the feeding off, and the key off the look-ups alone.
fn figures(all: &[Measured]) -> Vec<Figures> {
    let smallest = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let empty =
        |tc: bool| all.iter().find(|measured| measured.row.program == if tc { "empty_tc" } else { "empty_xdp" });
    all.iter()
        .map(|measured| {
            let base = empty(measured.row.is_tc()).map(|empty| empty.with.clone()).unwrap_or_default();
            let taken: &[f64] = &measured.without;
            let rounds =
                measured.with.iter().enumerate().map(|(round, with)| match (taken.get(round), base.get(round)) {
                    (Some(without), Some(empty)) => with - without + empty,
                    _ => *with,
                });
            let minimum = if taken.is_empty() {
                smallest(&measured.with)
            } else {
                smallest(&measured.with) - smallest(taken) + smallest(&base)
            };
            Figures { name: measured.row.name.clone(), rounds: rounds.collect(), minimum, limit: measured.row.limit }
        })
        .collect()
}
