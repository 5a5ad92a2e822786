//! The router follows the edges' hooks: only an edge whose node is up gets packets, as where a hook withdraws a BGP
//! route.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Lab, Router, Spray};

/// How often the edges' words are read.
const STEP: Duration = Duration::from_millis(10);

/// A router that follows, until dropped.
#[derive(Debug)]
pub struct Routing {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A hook that leaves the new state of its node in a file of the lab's folder.
///
/// # Errors
/// It cannot be written.
pub fn hook(lab: &Lab) -> Result<PathBuf> {
    let (path, folder) = (lab.folder().join("on-state"), lab.folder().display().to_string());
    // In one step, so that the router never reads half a word.
    let script = format!(
        "#!/bin/sh\nset -e\nfile={folder}/state-$FORWARDER_NODE\necho \"$2\" >$file.new\nmv $file.new $file\n\
         echo \"$1 $2\" >>$file.all\n"
    );
    fs::write(&path, script).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("make the hook a program")?;
    Ok(path)
}

/// The changes that an edge's hook was told so far: old and new state, a line each.
#[must_use]
pub fn hooked(lab: &Lab, edge: u8) -> String {
    fs::read_to_string(lab.folder().join(format!("state-{edge}.all"))).unwrap_or_default()
}

impl Routing {
    /// Lets the router follow the words that [`hook`] leaves.
    #[must_use]
    pub fn follow_hooks(lab: &Lab) -> Self {
        let (router, folder) = (lab.router().clone(), lab.folder().to_owned());
        Self::start(move |stop| follow(&router, &folder, stop))
    }

    /// Runs `follow` until it is told to stop.
    pub(super) fn start(follow: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Self { stop, thread: Some(std::thread::spawn(move || follow(&stopped))) }
    }
}

impl Drop for Routing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn follow(router: &Router, folder: &Path, stop: &AtomicBool) {
    let mut now = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let is_up = |edge: &u8| {
            let state = fs::read_to_string(folder.join(format!("state-{edge}"))).unwrap_or_default();
            state.trim() == "up"
        };
        let up: Vec<u8> = (1..=router.edges()).filter(is_up).collect();
        // With no edge left the last route is as good as none.
        if up != now && !up.is_empty() && router.spray(&Spray::Over(up.clone())).is_ok() {
            now = up;
        }
        std::thread::park_timeout(STEP);
    }
}
