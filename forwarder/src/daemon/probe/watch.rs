//! The sockets that take a service's packets, from the kernel's own list of this network namespace.
//!
//! They are looked at as soon as the kernel says that one with a service's port has ended, and four times a second in
//! any case. What looks like an end is looked at twice, since the list may lack a socket that is there. All of it
//! happens on a thread of its own, whose share of a CPU is bounded however many sockets the host has, opens and closes.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::sync::{Notify, mpsc};

use super::list::{Ends, List};
use forwarder_core::failover::Evidence;

/// How often the sockets are looked at where the kernel says nothing: a new proxy is missed for that long.
pub const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Pause after a look or after reading what the kernel said, in times it has taken: all of it takes a twentieth of a
/// CPU at most.
const SHARE: u32 = 20;

/// What was seen of the proxy of a service, by the service's place in the configuration.
pub(crate) type Seen = (usize, Evidence);

/// A service to look at.
pub(super) struct Watched {
    /// Its place in the configuration.
    pub(super) index: usize,
    /// Its address.
    pub(super) address: SocketAddr,
    /// Told of when there are other sockets than before.
    pub(super) changed: Arc<Notify>,
}

/// Looks until `seen` is closed; tells of the first look and of each change.
pub(super) fn spawn(watched: Vec<Watched>, seen: mpsc::Sender<Seen>) -> Result<()> {
    let ports: BTreeSet<u16> = watched.iter().map(|service| service.address.port()).collect();
    let watch = Watch {
        last: vec![None; watched.len()],
        watched,
        ports: ports.into_iter().collect(),
        list: None,
        seen,
        has_complained: false,
    };
    let body = move || watch.run();
    thread::Builder::new().name("sockets".to_owned()).spawn(body).context("start the thread that watches sockets")?;
    Ok(())
}

/// The thread's own.
struct Watch {
    watched: Vec<Watched>,
    ports: Vec<u16>,
    /// What was told last of each service.
    last: Vec<Option<BTreeSet<u64>>>,
    /// `None` before the first look, and after one that has failed.
    list: Option<List>,
    seen: mpsc::Sender<Seen>,
    has_complained: bool,
}

impl Watch {
    fn run(mut self) {
        // From before the first look, so that nothing ends between the two unseen.
        let ends = Ends::open()
            .inspect_err(|error| {
                log::warn!("{error:#}; a proxy's end is seen up to {} ms later", LOOK_PAUSE.as_millis());
            })
            .ok();
        while !self.seen.is_closed() {
            let start = Instant::now();
            if !self.step() {
                return;
            }
            thread::sleep(start.elapsed() * SHARE);
            wait(ends.as_ref(), &self.ports, start + LOOK_PAUSE);
        }
    }

    /// Looks once, and tells what has changed; false if nobody listens any more.
    fn step(&mut self) -> bool {
        let now = match self.look() {
            Ok(now) => now,
            Err(error) => {
                self.list = None;
                if !std::mem::replace(&mut self.has_complained, true) {
                    log::warn!("watch the services' sockets: {error:#}; a proxy's end is seen by its silence only");
                }
                return true;
            }
        };
        self.has_complained = false;
        for ((service, last), now) in self.watched.iter().zip(&mut self.last).zip(now) {
            if last.as_ref() == Some(&now) {
                continue;
            }
            if self.seen.blocking_send((service.index, Evidence::Sockets(now.clone()))).is_err() {
                return false;
            }
            *last = Some(now);
            service.changed.notify_one();
        }
        true
    }

    /// The inodes of each service's sockets.
    fn look(&mut self) -> Result<Vec<BTreeSet<u64>>> {
        let mut now = self.read()?;
        let is_end = |(now, last): (&BTreeSet<u64>, &Option<BTreeSet<u64>>)| {
            last.as_ref().is_none_or(|last| last.is_disjoint(now) && !(last.is_empty() && now.is_empty()))
        };
        if now.iter().zip(&self.last).any(is_end) {
            for (now, again) in now.iter_mut().zip(self.read()?) {
                now.extend(again);
            }
        }
        Ok(now)
    }

    fn read(&mut self) -> Result<Vec<BTreeSet<u64>>> {
        let list = match &mut self.list {
            Some(list) => list,
            none => none.insert(List::open()?),
        };
        let bound = list.read(&self.ports)?;
        let of = |service: &Watched| {
            let takes = bound.iter().filter(|bound| bound.takes(service.address));
            takes.map(|bound| bound.inode).collect()
        };
        Ok(self.watched.iter().map(of).collect())
    }
}

/// Waits until a socket with one of these ports has ended, until `end` at most.
fn wait(ends: Option<&Ends>, ports: &[u16], end: Instant) {
    let Some(ends) = ends else { return thread::sleep(end.saturating_duration_since(Instant::now())) };
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        ends.wait(left);
        let start = Instant::now();
        if ends.take(ports) {
            return;
        }
        thread::sleep(start.elapsed() * SHARE);
    }
}
