//! What a daemon's log says of it, read as it grows: whether it runs, and which secrets it has taken up.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What a daemon says when it has read its files and its loop begins.
const RUNS: &str = "of cluster lab runs";
/// What it says when it has taken up a secret.
const TAKEN_UP: &str = "the cluster's secret has changed";

/// The log of one edge's daemons, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    file: PathBuf,
    /// So many bytes were read: whole lines.
    read: u64,
    /// Daemons that have said that they run.
    runs: u32,
    /// Secrets that were taken up.
    taken_up: u32,
    stage: Stage,
}

/// How far the edge's daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Away,
    /// It was started after so many.
    Starting(u32),
    Running,
}

impl Journal {
    /// The journal of a daemon that runs.
    #[must_use]
    pub fn of(file: &Path) -> Self {
        Self { file: file.to_owned(), read: 0, runs: 0, taken_up: 0, stage: Stage::Running }
    }

    /// Reads what has come since the last look.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn look(&mut self) -> Result<()> {
        let mut bytes = Vec::new();
        let mut file = File::open(&self.file).with_context(|| format!("open {}", self.file.display()))?;
        let read = file.seek(SeekFrom::Start(self.read)).and_then(|_| file.read_to_end(&mut bytes));
        read.with_context(|| format!("read {}", self.file.display()))?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = String::from_utf8_lossy(bytes.get(..whole).unwrap_or_default());
        for line in text.lines() {
            self.runs += u32::from(line.contains(RUNS));
            self.taken_up += u32::from(line.contains(TAKEN_UP));
        }
        self.read += whole as u64;
        if matches!(self.stage, Stage::Starting(before) if self.runs > before) {
            self.stage = Stage::Running;
        }
        Ok(())
    }

    /// A daemon is about to be started.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn begun(&mut self) -> Result<()> {
        self.look()?;
        self.stage = Stage::Starting(self.runs);
        Ok(())
    }

    /// The daemon has ended.
    pub const fn ended(&mut self) {
        self.stage = Stage::Away;
    }

    /// Whether a daemon was started that does not run yet.
    #[must_use]
    pub const fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Starting(_))
    }

    /// Whether a daemon that was away or ran at that moment has read its secret since then, or will when it starts.
    #[must_use]
    pub fn has_taken_up_since(&self, then: &Self) -> bool {
        self.stage != Stage::Running || self.taken_up > then.taken_up || self.runs > then.runs
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_daemon_runs_when_it_says_so_and_has_the_secret_that_it_started_with_or_took_up() -> Result<()> {
        let path = std::env::temp_dir().join(format!("journal-{}", std::process::id()));
        let mut file = File::create(&path)?;
        writeln!(file, "node 1 of cluster lab runs")?;
        let mut journal = Journal::of(&path);
        journal.look()?;
        let then = journal.clone();
        write!(file, "INFO the cluster's secret")?;
        journal.look()?;
        assert!(!journal.has_taken_up_since(&then) && !journal.is_starting());
        writeln!(file, " has changed: key epoch 7")?;
        journal.look()?;
        assert!(journal.has_taken_up_since(&then), "it took the file up");

        let then = journal.clone();
        journal.ended();
        assert!(journal.has_taken_up_since(&then) && !journal.is_starting());
        journal.begun()?;
        assert!(journal.has_taken_up_since(&then) && journal.is_starting());
        writeln!(file, "node 1 of cluster lab runs")?;
        journal.look()?;
        assert!(journal.has_taken_up_since(&then) && !journal.is_starting(), "it started with the file");
        std::fs::remove_file(path)?;
        Ok(())
    }
}
