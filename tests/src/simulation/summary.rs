//! One table of many games of a scenario.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use super::{
    cause::Cause,
    counts::{Fates, Noted},
    report::Report,
};

/// A phase of all games together.
#[derive(Clone, Debug, Default)]
struct Part {
    name: &'static str,
    fates: Fates,
    causes: [u64; Cause::ALL.len()],
    /// Games in which a message met a wrong node in this phase, and the most in one.
    games: u64,
    most: u64,
}

/// What many games have shown.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    name: &'static str,
    games: u64,
    nodes: [usize; 2],
    parts: Vec<Part>,
    noted: Noted,
    /// Live claims that were compared at every node, and such as several nodes claimed.
    keys: u64,
    contested: u64,
    transactions: u64,
    harmed: u64,
    failed: Vec<u64>,
    elapsed: Duration,
}

impl Summary {
    /// Takes what one game has shown.
    pub fn add(&mut self, report: &Report) {
        let nodes = report.scenario.nodes;
        self.nodes = if self.games == 0 { [nodes; 2] } else { [self.nodes[0].min(nodes), self.nodes[1].max(nodes)] };
        self.name = report.scenario.name;
        self.games += 1;
        for phase in &report.phases {
            let part = self.part(phase.name);
            let fates = phase.fates.iter().copied().fold(Fates::default(), Fates::plus);
            part.fates = part.fates.plus(fates);
            part.causes.iter_mut().zip(phase.causes).for_each(|(sum, count)| *sum += count);
            part.games += u64::from(fates.wrong > 0);
            part.most = part.most.max(fates.wrong);
        }
        self.noted = self.noted.plus(report.noted);
        self.keys += report.agreement.keys as u64;
        self.contested += report.agreement.contested as u64;
        (self.transactions, self.harmed) = (self.transactions + report.transactions, self.harmed + report.harmed);
        self.elapsed += report.elapsed;
        if !report.is_good() {
            self.failed.push(report.scenario.seed);
        }
    }

    /// The seeds with which nodes disagreed, or broke the protocol.
    #[must_use]
    pub fn failed(&self) -> &[u64] {
        &self.failed
    }

    /// What the failover machines have noted in all games.
    #[must_use]
    pub const fn noted(&self) -> Noted {
        self.noted
    }

    /// How many messages met a wrong node for a cause.
    #[must_use]
    pub fn wrong(&self, cause: Cause) -> u64 {
        self.parts.iter().map(|part| part.causes[cause as usize]).sum()
    }

    /// How many messages met a wrong node.
    #[must_use]
    pub fn wrong_in_all(&self) -> u64 {
        self.parts.iter().map(|part| part.fates.wrong).sum()
    }

    fn part(&mut self, name: &'static str) -> &mut Part {
        let known = self.parts.iter().position(|part| part.name == name);
        let at = known.unwrap_or_else(|| {
            self.parts.push(Part { name, ..Part::default() });
            self.parts.len() - 1
        });
        &mut self.parts[at]
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, games, nodes, parts, keys, contested, transactions, harmed, failed, elapsed, noted } = self;
        let percent = |part: u64, all: u64| part as f64 * 100.0 / all.max(1) as f64;
        writeln!(f, "{name}: {games} seeds, {} to {} nodes, {:.0} s\n", nodes[0], nodes[1], elapsed.as_secs_f64())?;
        let columns = |f: &mut Formatter<'_>, row: &str, of: &dyn Fn(&Part) -> String| {
            write!(f, "{row:<42}")?;
            parts.iter().try_for_each(|part| write!(f, "{:>12}", of(part)))?;
            writeln!(f)
        };
        columns(f, "messages", &|part| part.name.to_owned())?;
        columns(f, "landed", &|part| part.fates.landed.to_string())?;
        columns(f, "forwarded", &|part| part.fates.forwarded.to_string())?;
        columns(f, "held", &|part| part.fates.held.to_string())?;
        columns(f, "relayed", &|part| part.fates.relayed.to_string())?;
        columns(f, "lost", &|part| part.fates.lost.to_string())?;
        columns(f, "ownerless: the proxy that had it is gone", &|part| part.fates.ownerless.to_string())?;
        columns(f, "met a wrong node", &|part| part.fates.wrong.to_string())?;
        columns(f, "  in percent", &|part| format!("{:.4}", percent(part.fates.wrong, part.fates.landed)))?;
        columns(f, "  seeds with any", &|part| part.games.to_string())?;
        columns(f, "  most with one seed", &|part| part.most.to_string())?;
        writeln!(f)?;
        columns(f, "at a wrong node because", &|part| part.name.to_owned())?;
        for cause in Cause::ALL {
            if parts.iter().any(|part| part.causes[cause as usize] > 0) {
                columns(f, cause.name(), &|part| part.causes[cause as usize].to_string())?;
            }
        }
        writeln!(
            f,
            "\ntransactions      {transactions}, of which {harmed} ({:.3} %) had a message lost or at a wrong node",
            percent(*harmed, *transactions)
        )?;
        writeln!(f, "failover          {noted}")?;
        writeln!(f, "agreement         {keys} live claims compared at every node, {contested} of several owners")?;
        match failed.as_slice() {
            [] => writeln!(f, "                  all nodes agree with the reference, with every seed"),
            failed => writeln!(f, "                  BROKEN with seeds {failed:?}"),
        }
    }
}
