//! What the programs are told while they run: what this node takes and hands out, that a daemon lives, epoch and secrets.

use std::time::Duration;

use anyhow::Result;
use forwarder_common::{abi, ids::Epoch};

use super::Dataplane;
use crate::identity::Secrets;

/// How long a daemon counts as alive after it has said so: as long as a peer that falls silent, and a half.
pub const LEASE: Duration = Duration::from_millis(1500);

impl Dataplane {
    /// Writes which healthy peer takes the new transactions of each slot of [`abi::TAKER_SLOTS`]; 0 for nobody.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_takers(&mut self, takers: &[u16]) -> Result<()> {
        self.maps.set_takers(takers)
    }

    /// From now on, new transactions go to healthy peers, or no longer.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_divert(&mut self, diverts: bool) -> Result<()> {
        self.diverts = diverts;
        self.set_duty(self.duty.drains(), self.duty.lease_ns())
    }

    /// Whether this start takes over from a daemon that had peers: they look after this node until it has found them again.
    #[must_use]
    pub const fn resumes(&self) -> bool {
        self.resumes
    }

    /// Whether there were no maps of an earlier daemon of this node: nothing here tells the epochs of its earlier lives.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Whether new transactions go to healthy peers.
    #[must_use]
    pub const fn diverts(&self) -> bool {
        self.diverts
    }

    /// Whether claims other than those of INVITEs are not made longer: said since this start, or before it.
    #[must_use]
    pub const fn drains(&self) -> bool {
        self.duty.drains()
    }

    /// From now on, claims other than those of INVITEs are not made longer, or again.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_draining(&mut self, drains: bool) -> Result<()> {
        self.set_duty(drains, self.duty.lease_ns())
    }

    /// Says that a daemon lives at `now_ns` of [`super::monotonic_ns`] and the maps of peers are right: to be called several times a
    /// second, for after a second and a half the programs take the daemon for dead.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn renew_lease(&mut self, now_ns: u64) -> Result<()> {
        self.set_duty(self.duty.drains(), now_ns + LEASE.as_nanos() as u64)
    }

    /// Says that the daemon, which lives, cannot look after this node: as if its lease were over by now, so peers do for as long as they
    /// would after a death at this moment.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn end_lease(&mut self, now_ns: u64) -> Result<()> {
        self.set_duty(self.duty.drains(), now_ns)
    }

    fn set_duty(&mut self, drains: bool, lease_ns: u64) -> Result<()> {
        self.duty = abi::Duty::new(self.diverts, drains, lease_ns);
        self.maps.set_duty(self.duty)
    }

    /// This node's proxy begins a new life: its claims of before are void.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_epoch(&mut self, epoch: Epoch) -> Result<()> {
        self.config.epoch = epoch.number();
        self.maps.set_config(&self.config)
    }

    /// From now on, keys and tags are made with these.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_secrets(&mut self, secrets: &Secrets) -> Result<()> {
        set_secrets(&mut self.config, secrets);
        self.maps.set_config(&self.config)
    }
}

/// Each key of the tag lies at the place of its epoch, so that a change of secrets changes no key that is in use.
pub(super) fn set_secrets(config: &mut abi::Config, secrets: &Secrets) {
    let Secrets { hash_key, tag_key, tag_epoch } = *secrets;
    config.hash_key = hash_key;
    config.tag_key = tag_key;
    config.tag_epoch = tag_epoch;
}
