//! Between the kernel's ring buffer, the cluster's core and its links: what comes in, and what the core wants done.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use aya::maps::{MapData, RingBuf};
use forwarder_common::{
    abi::{ClaimEvent, EVENT_BYTES, EVENT_NEW},
    ids::{Epoch, NodeId, Tick},
};

use super::{Daemon, Stand, now};
use crate::{
    cluster::links::{Command, Event, PeerIs},
    dataplane::{self, Dataplane},
    identity::{Change, Identity},
};
use forwarder_core::node::{LocalClaim, MapWrite, Node, Output, ProtocolError};

/// Ring-buffer events taken in one turn: the links must not wait for a flood of claims to end.
const EVENTS_A_TURN: usize = 4096;
/// Turns in which all is taken that a full ring buffer holds, each event with its header of eight bytes.
const RING_TURNS: usize = EVENT_BYTES as usize / (size_of::<ClaimEvent>() + 8) / EVENTS_A_TURN + 1;
/// How long a peer counts as up without a link, after this daemon's or its own restart.
pub(super) const REJOIN: Duration = Duration::from_secs(5);

impl Daemon {
    /// Marks down the peers whose links have not come back in time.
    pub(super) fn give_up_parted(&mut self) {
        let (over, node) = (Instant::now(), &mut self.node);
        self.parted.retain(|peer, due| {
            let waits = *due > over;
            if !waits {
                node.handle_link_down(*peer, now());
            }
            waits
        });
    }

    /// Frees a part of the kernel's table of claims whose owners have begun other epochs.
    pub(super) fn sweep(&mut self) {
        self.sweep.step(&self.node, self.dataplane.claims());
    }

    /// Takes up certificates and secrets that have changed; those that are of no use are said and left.
    pub(super) fn take_up_files(&mut self) -> Result<()> {
        for change in self.files.look() {
            match change {
                Ok(Change::Identity(identity)) => self.set_identity(Arc::from(identity)),
                Ok(Change::Secrets(secrets)) => {
                    // The programs and the slow path within one turn: a key under one and not the other finds no claim.
                    self.dataplane.set_secrets(&secrets)?;
                    self.slow.set_secrets(&secrets);
                    log::info!("the cluster's secret has changed: key epoch {}", secrets.tag_epoch);
                    if secrets.hash_key != self.secrets.hash_key {
                        log::warn!("`hash` of the secret has changed: claims made before are not found any more");
                    }
                    self.secrets = secrets;
                }
                Err(error) => log::error!("{error:#}"),
            }
        }
        Ok(())
    }

    fn set_identity(&mut self, identity: Arc<Identity>) {
        match self.links.set_identity(Arc::clone(&identity)) {
            Ok(()) => {
                log::info!("certificates or `deny` have changed: this node's certificate ends {}", identity.expires());
                self.identity = identity;
            }
            Err(error) => log::error!("{error:#}"),
        }
    }

    pub(super) fn link_event(&mut self, event: Event) -> Result<()> {
        // Before anything is concluded from a link's end.
        self.keep_lease()?;
        match event {
            Event::LinkUp { peer, address, again } => {
                if !again {
                    log::info!("node {}: link up, {address}", peer.number());
                } else if let Some(stand) = &mut self.stand {
                    stand.ended(peer);
                }
                self.parted.remove(&peer);
                self.peers.linked(peer, address, &mut self.dataplane)?;
                self.node.handle_link_up(peer, now());
            }
            Event::LinkDown { peer, reason, peer_is } => {
                log::warn!("node {}: link down: {reason}", peer.number());
                let stood = self.stand.as_mut().is_some_and(|stand| stand.ended(peer));
                // It was this host that was away.
                let is_well = peer_is == PeerIs::Well || (peer_is == PeerIs::Silent && stood);
                self.peers.unlinked(peer, reason, is_well, &mut self.dataplane)?;
                if is_well || peer_is == PeerIs::Leaving {
                    // Its programs and its proxy go on, with or without its daemon: packets still find their owner there.
                    self.parted.insert(peer, Instant::now() + REJOIN);
                } else {
                    self.node.handle_link_down(peer, now());
                }
                // Of two that have lost each other, either may be the one that was away.
                let is_alone = self.parted.len() > 1 && self.peers.linked_ones().is_empty();
                if is_well && is_alone && self.stand.is_none() {
                    log::warn!("all peers have forgotten this host: it was away");
                    self.stand = Some(Stand::new(BTreeSet::new(), true, Instant::now()));
                    self.leave_to_peers()?;
                }
            }
            Event::Message { peer, bytes } => {
                // A peer may ask for a claim that still waits in the ring buffer.
                take_claims(self.events.get_mut(), &mut self.node, self.dataplane.epoch());
                // Or in the other one, where the program could not read the message.
                let rejoins = self.rejoins();
                self.slow.take_punts(self.punts.get_mut(), rejoins, &mut around!(self));
                let result = self.node.handle_message(peer, &bytes, now());
                self.drop_unless_ok(peer, result);
            }
            Event::Datagram { peer, bytes } => {
                let result = self.node.handle_datagram(peer, &bytes, now());
                self.drop_unless_ok(peer, result);
            }
            // Logged and counted by the links.
            Event::Refused { .. } => {}
        }
        Ok(())
    }

    /// Drops the link of a peer that broke the protocol.
    fn drop_unless_ok(&self, peer: NodeId, result: Result<(), ProtocolError>) {
        let Err(error) = result else { return };
        log::warn!("node {}: {error}; its link is dropped", peer.number());
        if self.commands.try_send(Command::Drop { peer, reason: error.to_string() }).is_err() {
            log::warn!("node {}: the links are too busy to drop it", peer.number());
        }
    }

    /// Does what the core has decided.
    pub(super) async fn carry_out(&mut self) -> Result<()> {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send { to, message, kind } => self.command(Command::Send { to, message, kind }).await,
                Output::Datagram { to, bytes } => self.command(Command::Datagram { to, bytes }).await,
                Output::Call { peer, address } => self.command(Command::Call { peer, address }).await,
                Output::Forget { peer } => self.command(Command::Forget { peer }).await,
                Output::Map(MapWrite::Claim { key, owner, epoch, remaining_ms, is_new }) => {
                    if is_new && let Some(own) = own_claim(&self.dataplane, self.config.node, key) {
                        // It may wait in the ring buffer, or be one of which an earlier daemon knew.
                        let (events, epoch) = (self.events.get_mut(), self.dataplane.epoch());
                        let _ = (0..RING_TURNS).any(|_| take_claims(events, &mut self.node, epoch));
                        self.node.handle_found(own, now());
                        continue;
                    }
                    self.dataplane.set_claim(key, owner, epoch, remaining_ms);
                    log::trace!(
                        target: "forwarder::claims",
                        "claim {key:016x} of node {} stands at {}", owner.number(), now().unix_us
                    );
                }
                Output::Map(MapWrite::Peer { node, up, state, epoch, underlay }) => {
                    self.peers.set(node, up, state, epoch, underlay, &mut self.dataplane)?;
                }
                Output::Answer { ticket, owned } => {
                    self.slow.answered(ticket, owned, &around!(self));
                }
                Output::LookUp { ticket, request_key, reply_key } => {
                    let keys = [Some(request_key), Some(reply_key).filter(|key| *key != 0)].into_iter().flatten();
                    let own = |key| own_claim(&self.dataplane, self.config.node, key);
                    let found: Vec<_> = keys.filter_map(own).collect();
                    self.node.handle_looked_up(ticket, &found, now());
                }
            }
        }
        Ok(())
    }

    async fn command(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            log::error!("the cluster's links have ended: nothing reaches the peers any more");
        }
    }
}

/// The live claim of a key by this host in its present epoch, as the kernel's table has it; when it was made that does not tell.
pub(super) fn own_claim(dataplane: &Dataplane, node: NodeId, key: u64) -> Option<LocalClaim> {
    let entry = dataplane.claim(key)?;
    let is_own = entry.owner() == node.number() && entry.epoch() == dataplane.epoch();
    let ticks = entry.remaining(Tick::at(dataplane::monotonic_ns()));
    let remaining_ms = Tick::milliseconds(u16::try_from(ticks).ok()?);
    (is_own && remaining_ms != 0).then_some(LocalClaim { key, claimed_at_unix_us: now().unix_us, remaining_ms })
}

/// Gives the ring buffer's claims to the core; whether it was emptied.
pub(super) fn take_claims(events: &mut RingBuf<MapData>, node: &mut Node, epoch: Epoch) -> bool {
    let now = now();
    for _ in 0..EVENTS_A_TURN {
        let Some(item) = events.next() else { return true };
        if item.len() != size_of::<ClaimEvent>() {
            log::error!("a ring-buffer event has {} bytes instead of {}", item.len(), size_of::<ClaimEvent>());
            continue;
        }
        // SAFETY: the length was compared, any bytes are a value of this type, and the read asks for no alignment.
        let event = unsafe { item.as_ptr().cast::<ClaimEvent>().read_unaligned() };
        if event.epoch != epoch.number() {
            // Of an earlier life of the proxy: void.
            continue;
        }
        let age_us = (now.monotonic_us).saturating_sub(event.at_ns / 1000);
        let claim = LocalClaim {
            key: event.key,
            claimed_at_unix_us: now.unix_us.saturating_sub(age_us),
            // The event may be old: the ring buffer outlives daemons.
            remaining_ms: Tick::milliseconds(event.ticks).saturating_sub(age_us / 1000),
        };
        if event.flags & EVENT_NEW != 0 { node.handle_local(claim, now) } else { node.handle_change(claim, now) }
    }
    false
}
