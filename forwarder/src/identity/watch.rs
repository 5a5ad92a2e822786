//! Notices that certificate, key, authorities, secret or the list of the denied have changed, without a restart.
//!
//! The files are looked at, not waited for: an editor, `mv`, `cp` and a changed link to a folder all look alike then,
//! and it costs six calls of the kernel. Files that change together are read once they have rested for one look. What
//! is bad is said in one sentence, and what was good before it stays in use.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    node::{Identity, load},
    secrets::{Secrets, secrets},
};
use crate::config::{self, Config};

/// What the kernel says of a file: the same again means the same bytes. `None` where there is none.
type Stamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// What has changed.
#[derive(Debug)]
pub enum Change {
    /// Another certificate, key or authority, or another list of the denied.
    Identity(Box<Identity>),
    /// Other secrets.
    Secrets(Secrets),
}

/// The files that are watched, and what was wrong with them.
#[derive(Debug)]
pub struct Watch {
    config: Config,
    identity: Group,
    secrets: Group,
    current: Secrets,
}

#[derive(Debug)]
struct Group {
    files: Vec<PathBuf>,
    /// As they were when they were read last.
    read: Vec<Stamp>,
    /// As they were at the last look.
    seen: Vec<Stamp>,
    complaint: Option<String>,
}

impl Watch {
    /// Watches the files of `config`, which have just been read; `secrets` is what its secret file held.
    #[must_use]
    pub fn new(config: &Config, secrets: Secrets) -> Self {
        let cluster = &config.cluster;
        let files = [&cluster.ca, &cluster.certificate, &cluster.key].into_iter().chain(&config.file);
        Self {
            identity: Group::new(files.cloned().collect()),
            secrets: Group::new(vec![cluster.secret.clone()]),
            config: config.clone(),
            current: secrets,
        }
    }

    /// Looks at the files, in a millisecond; call it every second or so. A change is told by the look that finds it at
    /// rest.
    ///
    /// # Errors
    /// New files that are of no use: one sentence that names the file, what is wrong and a hint. It is told once, and
    /// until better ones come [`Self::complaints`] has it.
    pub fn look(&mut self) -> Vec<Result<Change>> {
        let mut changes = Vec::new();
        if self.identity.has_changed() {
            let result = self.read_identity();
            changes.extend(self.identity.judge(result.map(|identity| Some(Change::Identity(Box::new(identity))))));
        }
        if self.secrets.has_changed() {
            let result = secrets(&self.config.cluster.secret).map(|found| {
                let is_new = found != self.current;
                self.current = found;
                is_new.then_some(Change::Secrets(found))
            });
            changes.extend(self.secrets.judge(result));
        }
        changes
    }

    /// What is wrong with files that have changed, for `status`; empty once they are good.
    pub fn complaints(&self) -> impl Iterator<Item = &str> {
        [&self.identity, &self.secrets].into_iter().filter_map(|group| group.complaint.as_deref())
    }

    /// The list of the denied is read anew from the configuration; all else in it waits for a restart.
    fn read_identity(&mut self) -> Result<Identity> {
        let mut config = self.config.clone();
        if let Some(file) = &self.config.file {
            let written = config::load(file)?;
            config.cluster.deny = written.cluster.deny.clone();
            if written != config {
                log::warn!("{}: what has changed in it but `deny` takes effect at the next start", file.display());
            }
        }
        let identity = load(&config)?;
        self.config = config;
        Ok(identity)
    }
}

impl Group {
    fn new(files: Vec<PathBuf>) -> Self {
        let read: Vec<_> = files.iter().map(|file| stamp(file)).collect();
        Self { files, seen: read.clone(), read, complaint: None }
    }

    /// Whether the files are not as they were read, and have rested since the last look.
    fn has_changed(&mut self) -> bool {
        let stamps: Vec<_> = self.files.iter().map(|file| stamp(file)).collect();
        let rested = stamps == self.seen;
        self.seen = stamps;
        if !rested || self.seen == self.read {
            return false;
        }
        self.read.clone_from(&self.seen);
        true
    }

    fn judge(&mut self, result: Result<Option<Change>>) -> Option<Result<Change>> {
        let result = result.context("take up changed files; those before them stay in use");
        self.complaint = result.as_ref().err().map(|error| format!("{error:#}"));
        result.transpose()
    }
}

fn stamp(file: &Path) -> Stamp {
    let about = fs::metadata(file).ok()?;
    let (written, changed) = ((about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec()));
    Some((about.dev(), about.ino(), about.len(), written.0, written.1, changed.0, changed.1))
}
