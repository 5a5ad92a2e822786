//! The kernel side as the daemon sees it: programs loaded and attached, maps written and read.
//!
//! aya is known here and below; the daemon's loop only reads the ring buffers that this opens. It decides nothing. Map
//! pins lie in `<pin_dir>/v<ABI version>`, link pins in `<pin_dir>/links`, so that programs outlive the daemon.

mod attach;
mod claims;
mod explain;
mod inject;
mod links;
mod maps;
mod object;
mod pins;
pub mod preflight;
mod verify;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, RingBuf},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use aya_log::EbpfLogger;
use forwarder_common::{
    abi::{self, Address, ClaimEvent, Peer, ServiceKey},
    claim::{self, Decision},
    ids::{Epoch, Epochs, NodeId, Tick},
    keys::Affinity,
    lifetime,
    outcome::Outcome,
    rest::{Class, KeyKind, Purpose, Rest, Stage},
    sip::{Kind, Method},
    table,
};
use forwarder_core::failover::{Given, Inherited, Lease};
use tokio::io::unix::AsyncFd;

use self::object::OBJECT;
use crate::identity::Secrets;

pub(crate) use self::claims::Rules;
pub use self::{
    attach::{Attached, Standing},
    claims::{OwnClaim, Table},
    explain::Explainer,
    inject::Interface,
    object::OBJECT_PATH,
    pins::{Detached, detach},
    verify::{VERIFIER_LIMIT, Verified, stacks, verify},
};

/// What the programs are told at their start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration entry but for `bucket_mask`, `peers_up` and the keys, which belong to this module; the epochs
    /// are those of a fresh start.
    pub config: abi::Config,
    /// The keys.
    pub secrets: Secrets,
    /// The services, at most [`abi::MAX_SERVICES`]. Their `index` belongs to this module; `epoch` is that of a fresh
    /// start.
    pub services: Vec<(ServiceKey, abi::Service)>,
    /// Other addresses and ports from which proxies send, each with the place of its service in the above; at most
    /// [`abi::MAX_SOURCES`].
    pub sources: Vec<(ServiceKey, u8)>,
    /// Claims to hold; the table has at least twice the slots.
    pub claims: u32,
}

/// The loaded programs and their maps.
pub struct Dataplane {
    ebpf: Ebpf,
    maps: maps::Maps,
    /// Shared with whoever counts them.
    claims: Arc<Table>,
    config: abi::Config,
    /// In the order of the settings.
    services: Vec<(ServiceKey, abi::Service)>,
    sources: Vec<(ServiceKey, u8)>,
    /// As last written, by this daemon or an earlier one.
    lease: abi::LeaseWord,
    /// There were no maps of an earlier daemon of this node.
    is_fresh: bool,
    peers_up: BTreeMap<NodeId, bool>,
    /// Removes what this start has pinned, unless the start succeeds.
    pins: Option<pins::Pins>,
}

impl Dataplane {
    /// Loads the programs, over the maps that are pinned in `pin_dir` if they are of the same form. Without `pin_dir`
    /// nothing is pinned. Nothing is attached yet.
    ///
    /// # Errors
    /// The kernel refuses a program or a map, or `pin_dir` is on no BPF file system.
    pub fn load(settings: &Settings, pin_dir: Option<&Path>) -> Result<Self> {
        let buckets = buckets(settings.claims);
        let pins = pin_dir.map(|dir| pins::Pins::open(dir, buckets)).transpose()?;
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("CLAIMS", buckets).map_max_entries("KEYS", buckets);
        let paths = pins.as_ref().map(pins::Pins::map_paths).unwrap_or_default();
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        let mut ebpf = loader.load(OBJECT).context("load the kernel programs' maps")?;
        attach::load(&mut ebpf)?;
        let mut maps = maps::Maps::take(&mut ebpf)?;
        let claims = Arc::new(Table::map(&maps.claims, &maps.keys, buckets)?);
        let mut config = settings.config;
        config.bucket_mask = buckets - 1;
        set_secrets(&mut config, &settings.secrets);
        let (mut peers_up, mut is_fresh, mut services) = (BTreeMap::new(), true, settings.services.clone());
        services.iter_mut().zip(0..abi::NO_SERVICE).for_each(|((_, service), index)| service.index = index);
        if let Some(before) = maps.config()?.filter(|before| before.node == config.node) {
            // The proxies have gone on: their claims are effective, and peers count as up until links say else.
            config.epochs = before.epochs;
            // A new one has another's epoch until the failover machine gives it one.
            let other = before.epochs().iter().next().map_or(0, Epoch::number);
            for (key, service) in &mut services {
                service.epoch = maps.service(key)?.map_or(other, |known| known.epoch);
            }
            config.peers_up = before.peers_up;
            peers_up = maps.peers_up()?;
            is_fresh = false;
        }
        let sources = settings.sources.clone();
        maps.set_services(&services, &sources)?;
        maps.set_config(&config)?;
        let lease = maps.lease()?;
        Ok(Self { ebpf, maps, claims, config, lease, is_fresh, services, sources, peers_up, pins })
    }

    /// The ring buffer with this node's claims. To be taken once.
    ///
    /// # Errors
    /// It was taken before.
    pub fn take_events(&mut self) -> Result<RingBuf<MapData>> {
        maps::events(&mut self.ebpf)
    }

    /// The ring buffer with packets for the daemon. To be taken once.
    ///
    /// # Errors
    /// It was taken before.
    pub fn take_punts(&mut self) -> Result<RingBuf<MapData>> {
        maps::punts(&mut self.ebpf)
    }

    /// From now on the programs punt packets to the daemon, which must be ready to take them, as long as its lease
    /// lasts.
    ///
    /// However the daemon ends, the kernel then empties the map that is written here, and such packets pass again.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn open_punts(&mut self) -> Result<()> {
        let program = attach::punt(&mut self.ebpf)?;
        self.maps.open_punts(&program)
    }

    /// From now on packets that would be punted pass; harmless where none are.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn close_punts(&mut self) -> Result<()> {
        self.maps.close_punts()
    }

    /// Writes who reassembles the datagrams of each slot of [`forwarder_common::net::datagram_slot`]; 0 for nobody.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_reassemblers(&mut self, reassemblers: &[u16]) -> Result<()> {
        self.maps.set_reassemblers(reassemblers)
    }

    /// Puts IP packets into the host's stack, as if they had arrived at the interface, in their order.
    ///
    /// # Errors
    /// One of them is none, or the kernel refuses; some of them may have been injected.
    pub fn inject(&mut self, interface: &Interface, packets: &[Vec<u8>]) -> Result<()> {
        inject::inject(&mut self.ebpf, &self.config, interface, packets)
    }

    /// Passes the programs' rare log records on to the daemon's log. Call once, within a tokio runtime.
    ///
    /// # Errors
    /// The records' ring buffer cannot be opened or waited for.
    pub fn follow_logs(&mut self) -> Result<()> {
        let logger = EbpfLogger::init(&mut self.ebpf).context("open the programs' log")?;
        // SAFETY: the logger keeps the descriptor of its ring buffer until it is dropped, and gives no other.
        let mut logger = unsafe { AsyncFd::register(logger) }.context("wait for the programs' log")?;
        tokio::spawn(async move {
            while let Ok(mut ready) = logger.readable_mut().await {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        });
        Ok(())
    }

    /// Attaches ingress and egress to an interface, natively where `mode` asks for it or the driver can.
    ///
    /// # Errors
    /// The interface does not exist, or the kernel or another program is in the way.
    pub fn attach(&mut self, interface: &str, mode: crate::config::XdpMode) -> Result<Attached> {
        attach::attach(&mut self.ebpf, interface, mode, self.pins.as_mut())
    }

    /// Looks whether both programs are still attached to the interface with this name and index, as they were.
    ///
    /// # Errors
    /// The kernel refuses to say.
    pub fn standing(&mut self, interface: &str, ifindex: u32, attached: &Attached) -> Result<Standing> {
        attach::standing(&mut self.ebpf, interface, ifindex, attached, self.pins.as_ref())
    }

    /// What sees packets that leave an interface before the egress program does, and may hide them from it.
    ///
    /// # Errors
    /// The kernel refuses to say.
    pub fn in_front(&mut self, interface: &str, ifindex: u32, attached: &Attached) -> Result<Vec<String>> {
        attach::in_front(&mut self.ebpf, interface, ifindex, attached)
    }

    /// The start has succeeded: what is pinned stays when this is dropped.
    pub fn keep(&mut self) {
        if let Some(pins) = &mut self.pins {
            pins.keep();
        }
    }

    /// This node's live epochs: its claims of others are ineffective.
    #[must_use]
    pub const fn epochs(&self) -> Epochs {
        self.config.epochs()
    }

    /// How long claims last.
    #[must_use]
    pub const fn lifetimes(&self) -> abi::Lifetimes {
        self.config.lifetimes
    }

    /// The claim table.
    #[must_use]
    pub const fn claims(&self) -> &Arc<Table> {
        &self.claims
    }

    /// This node's effective claims as the maps have them, by now: what a daemon that takes the maps over has to know.
    ///
    /// A claim may be missing whose place another one took at the very moment of its making.
    pub fn own_claims(&self) -> impl Iterator<Item = OwnClaim> {
        let node = NodeId::new(self.config.node).into_iter();
        node.flat_map(|node| self.claims.own_keyed(node, self.epochs(), Tick::at(monotonic_ns())))
    }

    /// What the maps of an earlier daemon of this node say.
    #[must_use]
    pub fn inherited(&self) -> Inherited {
        let services = self.services.iter().map(|(_, service)| Epoch::new(service.epoch.into()));
        let given = (!self.is_fresh).then(|| Given { services: services.collect() });
        let peers_up = self.peers_up.iter().filter(|(_, up)| **up).map(|(id, _)| *id).collect();
        let lease = Lease {
            diverts: self.lease.says_divert(),
            drains: self.lease.drains(),
            until_us: self.lease.until_ns() / 1000,
        };
        Inherited { given, peers_up, lease }
    }

    /// Writes who takes the new transactions of each slot of [`abi::SUCCESSOR_SLOTS`] while this node takes none; 0 for
    /// nobody.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_successors(&mut self, successors: &[u16]) -> Result<()> {
        self.maps.set_successors(successors)
    }

    /// Writes what the programs do with what nobody owns, and until when the daemon lives at least.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_lease(&mut self, lease: Lease) -> Result<()> {
        let Lease { diverts, drains, until_us } = lease;
        self.lease = abi::LeaseWord::new(diverts, drains, until_us * 1000);
        self.maps.set_lease(self.lease)
    }

    /// From now on the messages of each service claim under its epoch, and claims of this node under epochs that are
    /// not among these are ineffective. The services are those of the settings.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_epochs(&mut self, given: &Given) -> Result<()> {
        let live = given.live();
        // A claim that is made meanwhile is under an epoch of before or of now: both are live until services are told.
        let both = live.iter().fold(self.epochs(), Epochs::with);
        self.config.epochs = both.bits();
        self.maps.set_config(&self.config)?;
        for ((_, service), epoch) in self.services.iter_mut().zip(&given.services) {
            service.epoch = epoch.number();
        }
        self.maps.set_services(&self.services, &self.sources)?;
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

    /// Writes what is known of a peer: whether it is up, its live epochs, its address and next hop.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_peer(&mut self, id: NodeId, up: bool, epochs: Epochs, peer: &Peer) -> Result<()> {
        self.maps.set_peer(id, up, epochs, peer)?;
        self.peers_up.insert(id, up);
        self.count_peers()
    }

    /// Writes this node's own address: it may send itself tunnel packets, to inject them.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_self(&mut self) -> Result<()> {
        let id = NodeId::new(self.config.node).context("write this node: it has no id")?;
        let (address, epochs) = (self.config.underlay, self.epochs());
        self.maps.set_peer(id, false, epochs, &Peer { address, source: address, ..Peer::default() })
    }

    /// Takes down a peer that an earlier daemon left up.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn take_down(&mut self, id: NodeId) -> Result<()> {
        self.maps.set_down(id)?;
        self.peers_up.insert(id, false);
        self.count_peers()
    }

    fn count_peers(&mut self) -> Result<()> {
        let peers_up = self.peers_up.values().filter(|up| **up).count();
        let peers_up = u16::try_from(peers_up).unwrap_or(u16::MAX);
        if peers_up != self.config.peers_up {
            self.config.peers_up = peers_up;
            self.maps.set_config(&self.config)?;
        }
        Ok(())
    }

    /// Writes a claim of a peer, or this node's own where a peer's stood, over whatever the table has for its key.
    pub fn set_claim(&self, key: u64, owner: NodeId, epoch: Epoch, purpose: Purpose, remaining_ms: u64) {
        let now = Tick::at(monotonic_ns());
        let expires = now.after(Tick::covering_ms(remaining_ms));
        let is_mine = |entry: table::Entry| entry.owner() == self.config.node;
        let entry = table::Entry::new(key, owner.number(), epoch.number(), expires);
        // What a claim of this node that is there already was made for stays noted.
        let stays = is_mine(entry) && self.claim(key).is_some_and(is_mine);
        let rest = (!stays).then(|| Rest::for_purpose(key, purpose));
        self.set(key, entry, rest, now);
    }

    /// Writes an entry, see [`Table::set`].
    fn set(&self, key: u64, entry: table::Entry, rest: Option<Rest>, now: Tick) -> bool {
        let live = |id| self.live_epochs(id);
        self.claims.set(key, entry, rest, &Rules { now, lifetimes: &self.config.lifetimes, live: &live })
    }

    /// The service whose proxy sends from this address and port, its own or a source, in the programs' terms.
    #[must_use]
    pub fn sender(&self, address: Address, port: u16) -> Option<abi::Service> {
        let wanted = ServiceKey { vip: address, port: port.to_be(), pad: 0 };
        let service = self.services.iter().find(|(key, _)| *key == wanted).map(|(_, service)| *service);
        service.or_else(|| {
            let (_, index) = self.sources.iter().find(|(key, _)| *key == wanted)?;
            Some(abi::Service::source(&self.services.get(usize::from(*index))?.1))
        })
    }

    /// The end of a claim of this node is another one, see [`forwarder_core::node::MapWrite::End`].
    pub fn set_end(&self, key: u64, epoch: Epoch, class: Class, was_ms: u64, remaining_ms: u64) {
        let now = Tick::at(monotonic_ns());
        let node = self.config.node;
        self.claims.replace(key, class, |entry| claim::ended(entry, (key, epoch), node, was_ms, remaining_ms, now));
    }

    /// The lifetime that a message of the local proxy gives to its claims.
    #[must_use]
    pub fn lifetime(&self, kind: Kind, method: Method, status: Option<u16>, affinity: Affinity) -> lifetime::Lifetime {
        lifetime::of(
            kind,
            method,
            status.unwrap_or_default(),
            &self.config.lifetimes,
            affinity.call_ticks(),
            self.lease.drains(),
        )
    }

    /// Claims a key for this node as the egress program would, for a message of this service, and tied to `other`; what
    /// the program would tell the daemon of it, if anything.
    #[must_use]
    pub fn claim_own(
        &self,
        (key, other): (u64, u64),
        kind: KeyKind,
        lifetime: lifetime::Lifetime,
        service: &abi::Service,
    ) -> Option<ClaimEvent> {
        let at_ns = monotonic_ns();
        let now = Tick::at(at_ns);
        let live = |id| self.live_epochs(id);
        let effective = self.claim(key).filter(|entry| claim::is_effective(*entry, now, live));
        let (epoch, service) = (service.epoch, service.index);
        let known = claim::epoch(effective, epoch);
        let lifetime = claim::lifetime(effective, lifetime, self.config.node, now);
        let (epoch, flags) = match claim::decide(effective, lifetime, self.config.node, now) {
            Decision::New => (known, abi::EVENT_NEW),
            Decision::Refresh => (known, 0),
            Decision::Tell => (epoch, abi::EVENT_KEPT),
            Decision::Keep => {
                self.claims.note_step(key, lifetime.step);
                return None;
            }
            Decision::Foreign | Decision::NoClaim => return None,
        };
        if flags == abi::EVENT_KEPT {
            self.claims.note_step(key, lifetime.step);
        }
        if flags != abi::EVENT_KEPT {
            let stage = if flags == abi::EVENT_NEW { Stage::Begun } else { self.claims.stage(key) };
            let rest = Some(Rest::of(key, service, kind, lifetime.class).at(stage).after(lifetime.step));
            let entry = table::Entry::new(key, self.config.node, epoch, now.after(lifetime.ticks));
            if !self.set(key, entry, rest, now) {
                return None;
            }
        }
        let (kind, class, sign) = (kind.code() as u8, lifetime.class.code() as u8, lifetime.sign.code() as u8);
        Some(ClaimEvent { key, other, at_ns, ticks: lifetime.ticks, epoch, flags, service, kind, class, sign })
    }

    /// The live epochs of a node as the programs know them, this one or a peer; none of one that is down.
    fn live_epochs(&self, id: u16) -> Epochs {
        if id == self.config.node {
            return self.epochs();
        }
        let node = NodeId::new(id).map(|id| self.maps.node(id)).filter(|node| node.is_up());
        node.map_or(Epochs::EMPTY, abi::Node::epochs)
    }

    /// What the table has for `key`, live or not.
    #[must_use]
    pub fn claim(&self, key: u64) -> Option<table::Entry> {
        table::find(&&*self.claims, self.config.bucket_mask, key).map(|(_, entry)| entry)
    }

    /// Packets by outcome, over all CPUs.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn outcomes(&self) -> Result<BTreeMap<&'static str, u64>> {
        let counts = self.maps.statistics()?;
        Ok(Outcome::ALL.iter().zip(counts).map(|(outcome, count)| (outcome.name(), count)).collect())
    }

    /// Runs the ingress program on a frame in the kernel, as a test: its action and the frame afterwards.
    ///
    /// # Errors
    /// The kernel refuses the run.
    pub fn test_ingress(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        let program: &mut Xdp = attach::program(&mut self.ebpf, attach::INGRESS)?;
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        let ran = program.test_run(options).context("run the ingress program on a frame")?;
        out.truncate(usize::try_from(ran.data_size_out)?);
        Ok((ran.return_value, out))
    }

    /// Runs the egress program on a frame in the kernel, as a test.
    ///
    /// # Errors
    /// The kernel refuses the run.
    pub fn test_egress(&mut self, frame: &[u8]) -> Result<i32> {
        let program: &mut aya::programs::SchedClassifier = attach::program(&mut self.ebpf, object::EGRESS)?;
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() };
        let ran = program.test_run(options).context("run the egress program on a frame")?;
        Ok(ran.return_value.cast_signed())
    }
}

/// Each key of the tag lies at the place of its epoch, so that a change of secrets changes no key that is in use.
fn set_secrets(config: &mut abi::Config, secrets: &Secrets) {
    let Secrets { hash_key, tag_key, tag_epoch } = *secrets;
    config.hash_key = hash_key;
    config.tag_key = tag_key;
    config.tag_epoch = tag_epoch;
}

/// Buckets of a table for `claims`: twice the slots, a power of two.
const fn buckets(claims: u32) -> u32 {
    let slots = claims.next_power_of_two().saturating_mul(2);
    let buckets = slots / table::SLOTS as u32;
    if buckets == 0 { 1 } else { buckets }
}

/// `CLOCK_MONOTONIC` in nanoseconds: the kernel's clock of claims.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local of the right type; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
