//! The configured interfaces: attached at the start, and again when one that disappeared returns or when somebody has
//! taken a program off.
//!
//! The configuration says that this daemon serves them, and whoever wants something else there changes that or stops
//! the daemon; until then a program that is gone is a mistake, and costs transactions. `forwarder detach` is the
//! exception: it is the operator's own word, and what it takes off stays off until the daemon starts again.

use std::{ffi::CString, sync::Arc};

use anyhow::{Context as _, Result};
use tokio::sync::Notify;

use crate::{
    config::XdpMode,
    dataplane::{Attached, Dataplane, Interface, Standing},
    routes, status,
};

/// Most looks between two tries to attach where something is in the way, such as another XDP program.
const PATIENCE: u32 = 32;

/// One configured interface.
struct Entry {
    name: String,
    /// As it was attached; another index under the same name is another interface.
    attached: Option<(Interface, Attached)>,
    /// Why it is not attached, as it was logged.
    reason: Option<String>,
    /// What hides packets from the egress program, as it was logged.
    hidden: Option<String>,
    /// Looks until the next try, and how many there were between the last two.
    wait: (u32, u32),
    /// The operator has taken the programs off.
    is_off: bool,
}

/// What a look at an interface says.
enum Look {
    /// Nothing to do.
    Well,
    /// It has to be attached.
    Missing,
    /// It is not there, or not to be attached.
    Leave(String),
}

/// All of them.
pub(super) struct Interfaces {
    mode: XdpMode,
    entries: Vec<Entry>,
    /// What the kernel says of interfaces.
    news: Arc<Notify>,
}

impl Interfaces {
    /// Attaches to all of them. Call within a tokio runtime.
    pub(super) fn attach(names: &[String], mode: XdpMode, dataplane: &mut Dataplane) -> Result<Self> {
        let mut entries = Vec::new();
        for name in names {
            let attached = Some(attach(name, mode, dataplane)?);
            entries.push(Entry {
                name: name.clone(),
                attached,
                reason: None,
                hidden: None,
                wait: (0, 0),
                is_off: false,
            });
        }
        Ok(Self { mode, entries, news: routes::watch_links()? })
    }

    /// Waits until the kernel says something of an interface; a look at them all is due then.
    pub(super) async fn changed(&self) {
        self.news.notified().await;
    }

    /// Looks whether each is still the one that was attached, and whether all is attached to it; attaches where that is
    /// not so. Whether anything has changed.
    pub(super) fn check(&mut self, dataplane: &mut Dataplane) -> bool {
        let mut changed = false;
        for entry in &mut self.entries {
            let outcome = match entry.look(dataplane) {
                Look::Well => {
                    changed |= entry.look_at_mac();
                    entry.look_in_front(dataplane);
                    continue;
                }
                Look::Missing if entry.waits() => continue,
                Look::Missing => attach(&entry.name, self.mode, dataplane).map_err(|error| format!("{error:#}")),
                Look::Leave(reason) => Err(reason),
            };
            match outcome {
                Ok(attached) => {
                    (entry.attached, entry.reason, entry.wait) = (Some(attached), None, (0, 0));
                    changed = true;
                }
                Err(reason) => {
                    changed |= entry.attached.take().is_some();
                    if entry.reason.as_ref() != Some(&reason) {
                        log::warn!("interface {}: {reason}", entry.name);
                        entry.reason = Some(reason);
                    }
                }
            }
        }
        changed
    }

    /// Those that are attached, to inject at.
    pub(super) fn attached(&self) -> impl Iterator<Item = &Interface> {
        self.entries.iter().filter_map(|entry| entry.attached.as_ref()).map(|(interface, _)| interface)
    }

    /// For `status`.
    pub(super) fn report(&self) -> Vec<status::Interface> {
        let none = "none".to_owned();
        let report = |entry: &Entry| {
            let how = entry.attached.as_ref().map(|(_, how)| how);
            status::Interface {
                name: entry.name.clone(),
                xdp: how.map_or_else(|| none.clone(), |how| how.xdp.to_owned()),
                egress: how.map_or_else(|| none.clone(), |how| how.egress.to_owned()),
            }
        };
        self.entries.iter().map(report).collect()
    }

    /// For `status`: those that are not attached, and why, and those whose egress program others come before.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        let warning = |entry: &Entry| {
            let what = entry.reason.as_ref().or(entry.hidden.as_ref())?;
            Some(format!("interface {}: {what}", entry.name))
        };
        self.entries.iter().filter_map(warning)
    }
}

impl Entry {
    fn look(&mut self, dataplane: &mut Dataplane) -> Look {
        let Some(now) = index(&self.name) else {
            // One that returns is tried at once.
            self.wait = (0, 0);
            return Look::Leave("it is gone, and is attached again when it returns".to_owned());
        };
        let attached = self.attached.as_ref().filter(|(interface, _)| interface.ifindex == now);
        let standing = match attached {
            _ if self.is_off => Standing::Detached,
            Some((_, how)) => match dataplane.standing(&self.name, now, how) {
                Ok(standing) => standing,
                Err(error) => {
                    log::debug!("interface {}: {error:#}", self.name);
                    return Look::Well;
                }
            },
            None => return Look::Missing,
        };
        match standing {
            Standing::Attached => Look::Well,
            Standing::TakenOff(what) => {
                log::warn!("interface {}: somebody has taken the {what} off; it is attached again", self.name);
                Look::Missing
            }
            Standing::Detached => {
                self.is_off = true;
                Look::Leave(
                    "`forwarder detach` has taken the programs off; hint: restart this daemon to attach them again"
                        .to_owned(),
                )
            }
        }
    }

    /// Takes up another MAC address of the interface: the stack drops what is injected for the old one. Whether it has
    /// another.
    fn look_at_mac(&mut self) -> bool {
        let Some((interface, how)) = &mut self.attached else { return false };
        match Interface::find(&self.name, how.xdp == "generic") {
            Ok(now) if now != *interface => {
                log::info!("interface {}: its MAC address has changed", self.name);
                *interface = now;
                true
            }
            Ok(_) => false,
            Err(error) => {
                log::debug!("interface {}: {error:#}", self.name);
                false
            }
        }
    }

    /// Looks whether others see what leaves before the egress program does. They are let be: two that push each other
    /// aside would help nobody.
    fn look_in_front(&mut self, dataplane: &mut Dataplane) {
        let Some((interface, how)) = &self.attached else { return };
        let hidden = match dataplane.in_front(&self.name, interface.ifindex, how) {
            Ok(others) if others.is_empty() => None,
            Ok(others) => Some(format!(
                "{} at egress comes before the forwarder's program and may hide messages from it, which then make no \
                 claim; hint: attach it after the forwarder, or restart this daemon",
                others.join(", ")
            )),
            Err(error) => {
                log::debug!("interface {}: {error:#}", self.name);
                return;
            }
        };
        if self.hidden != hidden {
            match &hidden {
                Some(what) => log::warn!("interface {}: {what}", self.name),
                None => log::info!("interface {}: nothing comes before the egress program any more", self.name),
            }
            self.hidden = hidden;
        }
    }

    /// Whether the next try is for a later look; each that fails makes the pause longer.
    fn waits(&mut self) -> bool {
        let (left, last) = self.wait;
        if left > 0 {
            self.wait.0 = left - 1;
            return true;
        }
        let pause = (2 * last).clamp(1, PATIENCE);
        self.wait = (pause, pause);
        false
    }
}

fn attach(name: &str, mode: XdpMode, dataplane: &mut Dataplane) -> Result<(Interface, Attached)> {
    let how = dataplane.attach(name, mode)?;
    log::info!("attached to {name}: {} XDP, egress by {}", how.xdp, how.egress);
    let interface = Interface::find(name, how.xdp == "generic").context("look at the interface")?;
    Ok((interface, how))
}

fn index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with NUL.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}
