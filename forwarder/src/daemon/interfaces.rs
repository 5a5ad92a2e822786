//! The configured interfaces: attached at the start, and again when one that disappeared returns.

use std::ffi::CString;

use anyhow::{Context as _, Result};

use crate::{
    config::XdpMode,
    dataplane::{Attached, Dataplane, Interface},
    status,
};

/// One configured interface.
struct Entry {
    name: String,
    /// As it was attached; another index under the same name is another interface.
    attached: Option<(Interface, Attached)>,
    /// Why it is not attached, as it was logged.
    reason: Option<String>,
}

/// All of them.
pub(super) struct Interfaces {
    mode: XdpMode,
    entries: Vec<Entry>,
}

impl Interfaces {
    /// Attaches to all of them.
    pub(super) fn attach(names: &[String], mode: XdpMode, dataplane: &mut Dataplane) -> Result<Self> {
        let mut entries = Vec::new();
        for name in names {
            let attached = Some(attach(name, mode, dataplane)?);
            entries.push(Entry { name: name.clone(), attached, reason: None });
        }
        Ok(Self { mode, entries })
    }

    /// Looks whether each is still the one that was attached, and attaches to one that is new; whether any was.
    pub(super) fn check(&mut self, dataplane: &mut Dataplane) -> bool {
        let mut changed = false;
        for entry in &mut self.entries {
            let now = index(&entry.name);
            if entry.attached.as_ref().map(|(interface, _)| interface.ifindex) == now && now.is_some() {
                continue;
            }
            let outcome = match now {
                Some(_) => attach(&entry.name, self.mode, dataplane).map_err(|error| format!("{error:#}")),
                None => Err("it is gone, and is attached again when it returns".to_owned()),
            };
            match outcome {
                Ok(attached) => {
                    (entry.attached, entry.reason) = (Some(attached), None);
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

    /// For `status`: those that are not attached, and why.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.entries.iter().filter_map(|entry| Some(format!("interface {}: {}", entry.name, entry.reason.as_ref()?)))
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
