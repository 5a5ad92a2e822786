//! The table, the JSON of a run, and two runs beside each other.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::measure::{Figures, quantile};

/// A run as it is kept.
#[derive(Serialize, Deserialize)]
pub(crate) struct Run {
    title: String,
    kernel: String,
    processor: String,
    rounds: usize,
    rows: Vec<Kept>,
    #[serde(default)]
    pub(crate) values: Vec<Value>,
}

/// A figure that is measured once.
#[derive(Serialize, Deserialize)]
pub(crate) struct Value {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
}

/// A row as it is kept: nanoseconds, and multiples of the empty program of the same run.
#[derive(Serialize, Deserialize)]
struct Kept {
    name: String,
    median_ns: f64,
    minimum_ns: f64,
    quartiles_ns: [f64; 2],
    multiple: f64,
    /// Of each round, by its own base.
    multiple_quartiles: [f64; 2],
    minimum_multiple: f64,
    limit: Option<f64>,
}

fn first_line(path: &str, begin: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(begin)).unwrap_or("unknown");
    line.rsplit(": ").next().unwrap_or(line).trim().to_owned()
}

impl Run {
    /// From the figures of a run.
    pub(crate) fn new(title: &str, figures: &[Figures], rounds: usize) -> Self {
        let rows = figures.iter().map(|row| {
            let base = figures.iter().find(|base| base.name == row.base).unwrap_or(row);
            let ratios = row.rounds.iter().zip(&base.rounds).map(|(ns, base)| ns / base).collect::<Vec<_>>();
            Kept {
                name: row.name.clone(),
                median_ns: row.median(),
                minimum_ns: row.minimum,
                quartiles_ns: [row.quantile(0.25), row.quantile(0.75)],
                multiple: row.median() / base.median(),
                multiple_quartiles: [quantile(&ratios, 0.25), quantile(&ratios, 0.75)],
                minimum_multiple: row.minimum / base.minimum,
                limit: row.limit,
            }
        });
        let kernel = first_line("/proc/sys/kernel/osrelease", "");
        let processor = first_line("/proc/cpuinfo", "model name");
        Self { title: title.to_owned(), kernel, processor, rounds, rows: rows.collect(), values: Vec::new() }
    }

    /// Reads one from a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("read {}: is it of `cargo xtask bench --json`?", path.display()))
    }

    /// Writes it.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context("write the figures")?;
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Prints it.
    pub(crate) fn print(&self) {
        println!("{}, Linux {}, {} rounds; {}", self.processor, self.kernel, self.rounds, self.title);
        println!(
            "{:<66} {:>7} {:>7} {:>13} {:>6} {:>7} {:>11} {:>7} {:>6}",
            "row", "ns", "min", "quartiles", "M/s", "times", "quartiles", "min", "limit"
        );
        for row in &self.rows {
            let ([low, high], [less, more]) = (row.quartiles_ns, row.multiple_quartiles);
            let limit = row.limit.map_or(String::new(), |limit| format!("{limit:.1}"));
            let missed = match row.limit {
                Some(limit) if row.multiple > limit && row.minimum_multiple > limit => " misses",
                Some(limit) if row.multiple > limit => " misses by the median",
                _ => "",
            };
            println!(
                "{:<66} {:>7.1} {:>7.1} {:>13} {:>6.2} {:>7.3} {:>11} {:>7.2} {:>6}{missed}",
                row.name,
                row.median_ns,
                row.minimum_ns,
                format!("{low:.0}-{high:.0}"),
                1e3 / row.median_ns,
                row.multiple,
                format!("{less:.2}-{more:.2}"),
                row.minimum_multiple,
                limit
            );
        }
        for Value { name, value, unit } in &self.values {
            println!("{name:<80} {value:>12.2} {unit}");
        }
    }

    /// Prints another run beside it.
    pub(crate) fn compare(&self, other: &Self) {
        let others: BTreeMap<_, _> = other.rows.iter().map(|row| (&row.name, row)).collect();
        println!(
            "{:<66} {:>8} {:>8} {:>8} {:>8}",
            "row, multiples of each run's empty program", "A", "B", "B/A", "min B/A"
        );
        for row in &self.rows {
            let Some(after) = others.get(&row.name) else { continue };
            println!(
                "{:<66} {:>8.2} {:>8.2} {:>8.2} {:>8.2}",
                row.name,
                row.multiple,
                after.multiple,
                after.multiple / row.multiple,
                after.minimum_multiple / row.minimum_multiple
            );
        }
        let others: BTreeMap<_, _> = other.values.iter().map(|value| (&value.name, value.value)).collect();
        for Value { name, value, unit } in &self.values {
            let Some(after) = others.get(name) else { continue };
            println!("{name:<80} {value:>12.2} {after:>12.2} {:>8.2} {unit}", after / value);
        }
    }
}
