//! Rounds: all rows one after the other, again and again, so that what disturbs the machine disturbs all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use forwarder_common::table::SLOTS;

use crate::{
    feed::Feed,
    kernel::{Forwarder, Loading},
    rows::{self, Row, Which},
    yardstick::Yardstick,
};

/// How long the runs of one row in one round take together, in nanoseconds.
const ROUND_NS: f64 = 3e6;
/// Runs of a row that tell how many it can have.
const FIRST_RUNS: u32 = 500;

/// The figures of one row.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) name: String,
    /// The row that it is a multiple of.
    pub(crate) base: String,
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
        quantile(&self.rounds, part)
    }
}

/// A quantile of these.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len().saturating_sub(1) as f64 * part).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

struct Measured {
    row: Row,
    repeat: u32,
    with: Vec<f64>,
    /// The same with nothing fed.
    without: Vec<f64>,
}

/// The objects to load.
pub(crate) struct Objects<'a> {
    /// The forwarder's.
    pub(crate) forwarder: &'a Path,
    /// The yardstick's.
    pub(crate) yardstick: &'a Path,
    /// The forwarder's with another claim table.
    pub(crate) lru: Option<&'a Path>,
}

/// All that is loaded.
pub(crate) struct Machine {
    yardstick: Yardstick,
    forwarders: BTreeMap<Which, Forwarder>,
    /// The yardstick with tables filled more or less.
    tables: BTreeMap<Which, Yardstick>,
}

impl Machine {
    /// Loads what the rows need.
    pub(crate) fn load(objects: &Objects<'_>, rows: &[Row]) -> Result<Self> {
        let (mut forwarders, mut tables) = (BTreeMap::new(), BTreeMap::new());
        let loading = Loading { claims: 2 * rows::CALLS, v6: false, ifindex: 1 };
        let wanted: BTreeSet<_> = rows.iter().map(|row| row.which).collect();
        for which in wanted {
            let object = match which {
                Which::Yardstick => continue,
                Which::Tables(_) => {
                    let mut yardstick = Yardstick::load(objects.yardstick, rows::SLOTS, 1)?;
                    yardstick.fill(which.filled())?;
                    tables.insert(which, yardstick);
                    continue;
                }
                Which::Lru(_) => objects.lru.context("find the LRU build; hint: run `cargo xtask bench`")?,
                Which::Four | Which::Six | Which::Fresh | Which::Filled(_) => objects.forwarder,
            };
            let mut forwarder = Forwarder::load(object, Loading { v6: which == Which::Six, ..loading })?;
            match which {
                Which::Filled(_) | Which::Lru(_) => rows::claim_requests(&mut forwarder, which.filled())?,
                Which::Yardstick | Which::Four | Which::Six | Which::Fresh | Which::Tables(_) => {
                    rows::claim_all(&mut forwarder)?;
                }
            }
            forwarders.insert(which, forwarder);
        }
        let flows = if rows.iter().any(|row| row.program == "balancer") { 2 * rows::FLOWS } else { 1 };
        let mut yardstick = Yardstick::load(objects.yardstick, SLOTS as u32, flows)?;
        if flows > 1 {
            rows::add_flows(&mut yardstick)?;
        }
        Ok(Self { yardstick, forwarders, tables })
    }

    fn forwarder(&self, which: Which) -> Result<&Forwarder> {
        self.forwarders.get(&which).context("find the forwarder of a row")
    }

    /// Nanoseconds a run and what the program returned.
    fn run(&mut self, row: &Row, repeat: u32) -> Result<f64> {
        let ran = match (&row.feeding, row.which) {
            (None, Which::Yardstick) => self.yardstick.run(row.program, &row.frame, repeat)?,
            (None, which) => self.forwarder(which)?.run(row.program, &row.frame, repeat)?,
            (Some(feeding), which) if row.draws() => {
                let yardstick = self.tables.get_mut(&which).context("find the tables of a row")?;
                yardstick.set_feed(feeding.feed, &[])?;
                yardstick.run(row.program, &row.frame, repeat)?
            }
            (Some(feeding), which) => {
                let fd = if which == Which::Yardstick {
                    self.yardstick.fd(row.program)?
                } else {
                    self.forwarder(which)?.fd(row.program)?
                };
                self.yardstick.set_next(row.feeder(), &fd)?;
                self.yardstick.set_feed(Feed { state: 1, ..feeding.feed }, &feeding.texts)?;
                self.yardstick.run(row.feeder(), &row.frame, repeat)?
            }
        };
        Ok(ran.0)
    }

    fn before(&mut self, row: &Row) -> Result<()> {
        if let Some(forwarder) = self.forwarders.get_mut(&row.which) {
            if row.which == Which::Fresh {
                forwarder.claims.clear();
                rows::claim_all(forwarder)?;
            }
            forwarder.drain();
        }
        Ok(())
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
        // The first of the repeated runs of a counting row meets the claim of the run before, and of a table that is
        // 90 % full one claim of two hundred has given way.
        let enough = u64::from(FIRST_RUNS) * 98 / 100;
        let expected = moved.iter().any(|(name, count)| *name == outcome && *count >= enough);
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
                if measured.row.feeding.is_some() && !measured.row.draws() {
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
            let Row { name, limit, .. } = measured.row.clone();
            let base = if measured.row.is_tc() { "empty TC program" } else { "empty XDP program" }.to_owned();
            Figures { name, base, rounds: rounds.collect(), minimum, limit }
        })
        .collect()
}
