//! What the programs are told while they run: the lease, successors, epoch and secrets; and what they were told before.

use anyhow::Result;
use forwarder_common::{
    abi,
    ids::{Epoch, Epochs},
};
use forwarder_core::failover::{Given, Inherited, Lease};

use super::Dataplane;
use crate::identity::Secrets;

impl Dataplane {
    /// What the maps of an earlier daemon of this node say.
    #[must_use]
    pub fn inherited(&self) -> Inherited {
        let services = self.services.iter().map(|(_, service)| Epoch::new(service.epoch.into()));
        let given = (!self.is_fresh).then(|| Given { services: services.collect(), others: self.other_epoch() });
        let peers_up = self.peers_up.iter().filter(|(_, up)| **up).map(|(id, _)| *id).collect();
        let lease = Lease {
            diverts: self.lease.says_divert(),
            drains: self.lease.drains(),
            until_us: self.lease.lease_ns() / 1000,
        };
        Inherited { given, peers_up, lease }
    }

    /// Writes who takes the new transactions of each slot of [`abi::TAKER_SLOTS`] while this node takes none; 0 for nobody.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_successors(&mut self, successors: &[u16]) -> Result<()> {
        self.maps.set_takers(successors)
    }

    /// Writes what the programs do with what nobody owns, and until when the daemon lives at least.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_lease(&mut self, lease: Lease) -> Result<()> {
        let Lease { diverts, drains, until_us } = lease;
        self.lease = abi::Duty::new(diverts, drains, until_us * 1000);
        self.maps.set_duty(self.lease)
    }

    /// From now on the messages of each service claim under its epoch, all others under theirs, and claims of this node
    /// under epochs that are not among these are ineffective. The services are those of the settings.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_epochs(&mut self, given: &Given) -> Result<()> {
        let live = given.live();
        // A claim that is made meanwhile is under an epoch of before or of now: both are live until services are told.
        let both = live.iter().fold(self.epochs(), Epochs::with);
        (self.config.epochs, self.config.other_epoch) = (both.bits(), given.others.number());
        self.maps.set_config(&self.config)?;
        for ((_, service), epoch) in self.services.iter_mut().zip(&given.services) {
            service.epoch = epoch.number();
        }
        self.maps.set_services(&self.services)?;
        self.config.epochs = live.bits();
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
