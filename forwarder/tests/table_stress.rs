//! The claim table under two writers at once: the egress program in the kernel, and a daemon through its own mapping.
//! Needs root.
//!
//! What both have written is compared with what they were told to write: nothing may be torn, lost or there twice.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use aya::maps::MapData;
use forwarder::{
    dataplane::{Dataplane, OwnClaim, Settings, detach, monotonic_ns},
    identity::Secrets,
};
use forwarder_common::{
    abi::{self, Address, Config, Lifetimes, Peer, ServiceKey},
    ids::{Epoch, Epochs, NodeId, Tick},
    keys::Affinity,
    rest::{Class, KeyKind, Purpose},
    sip::{Kind, Method},
    table::{self, Buckets, Entry, Place, SLOTS},
};
use forwarder_core::failover::Given;
use test_support::programs::frames::{Frame, HASH_KEY, Sip};

const ME: u16 = 1;
const PEER: u16 = 2;
const EPOCH: Epoch = Epoch::new(5);
const LIFETIME_MS: u64 = 3_600_000;
const PURPOSE: Purpose = Purpose::of(KeyKind::Request, Class::Proceeding);
/// Keys of each writer: half of the table's slots in all, at which no claim gives way to another.
const KEYS: usize = 4_000;
/// Different moments at which the daemon writes while the kernel runs.
const MOMENTS: usize = 250;
/// Claims that the table is made for; it has twice the slots.
const CLAIMS: u32 = 8_192;

/// A pin folder that goes with the test.
struct Pins(PathBuf);

impl Pins {
    fn new(name: &str) -> Self {
        Self(PathBuf::from(format!("/sys/fs/bpf/forwarder-{name}-{}", process::id())))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = detach(&self.0);
    }
}

/// Two dataplanes over the same maps: the first has made them, and the second takes them over. No two have one folder,
/// so the maps are pinned in another one as well, which lasts as long as what comes last.
fn load_twice(pins: &Pins) -> (Dataplane, Dataplane, Pins) {
    let first = load(&pins.0);
    let twin = Pins(format!("{}-twin", pins.0.display()).into());
    let version = format!("v{}", abi::VERSION);
    fs::create_dir_all(twin.0.join(&version)).unwrap();
    for pin in fs::read_dir(pins.0.join(&version)).unwrap().flatten() {
        MapData::from_pin(pin.path()).unwrap().pin(twin.0.join(&version).join(pin.file_name())).unwrap();
    }
    let second = load(&twin.0);
    (first, second, twin)
}

/// A dataplane over the maps in the folder, which are made if they are missing.
fn load(dir: &Path) -> Dataplane {
    load_for(dir, CLAIMS)
}

fn load_for(dir: &Path, claims: u32) -> Dataplane {
    let config = Config {
        underlay: Address::v4([10, 9, 0, ME as u8]),
        vni: 1,
        node: ME,
        epochs: Epochs::EMPTY.with(EPOCH).bits(),
        lifetimes: Lifetimes { proceeding: 900, failed: 900, ended: 900, call: 900 },
        ..Config::default()
    };
    let key = ServiceKey { vip: Address::v4([192, 0, 2, 10]), port: 5060_u16.to_be(), pad: 0 };
    let service = abi::Service { flags: abi::SERVICE_SET, epoch: EPOCH.number(), ..abi::Service::default() };
    let secrets = Secrets { hash_key: HASH_KEY, tag_key: [[0; 2]; 2], tag_epoch: 0 };
    let settings = Settings { config, secrets, services: vec![(key, service)], sources: Vec::new(), claims };
    let mut dataplane = Dataplane::load(&settings, Some(dir)).unwrap_or_else(|error| panic!("{error:#} (run as root)"));
    dataplane.keep();
    dataplane
}

fn peer() -> NodeId {
    NodeId::new(PEER).unwrap()
}

fn reply(name: &str, number: usize) -> Sip {
    Sip::response(180, "INVITE", &format!("{name}-{number}"))
}

/// Sends the replies of these names through the egress program, and says before each which one it is.
fn send_all(dataplane: &mut Dataplane, names: &[Sip], at: impl Fn(usize)) {
    let mut events = dataplane.take_events().unwrap();
    let frames: Vec<_> = names.iter().map(|sip| Frame::from_vip(false, &sip.bytes())).collect();
    for (index, frame) in frames.iter().enumerate() {
        at(index);
        dataplane.test_egress(frame.bytes()).unwrap();
        while events.next().is_some() {}
    }
}

/// The keys of this node's claims, as the word beside each entry completes them.
fn own_keys(dataplane: &Dataplane) -> Vec<u64> {
    let mut keys: Vec<_> = dataplane.own_claims().map(|claim| claim.key).collect();
    keys.sort_unstable();
    keys
}

fn sorted(keys: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    keys
}

/// No bucket holds what nobody wrote, each key is there once, and this node's can be read whole.
fn check(dataplane: &Dataplane, owners: &HashMap<u64, &[u16]>) {
    for (key, owners) in owners {
        let entry = dataplane.claim(*key).unwrap_or_else(|| panic!("the claim on {key:016x} is lost"));
        assert!(owners.contains(&entry.owner()), "the claim on {key:016x} is of node {}", entry.owner());
        assert_eq!(entry.epoch(), EPOCH, "a torn entry");
        let ticks = entry.remaining(Tick::at(monotonic_ns()));
        assert!((700..=1000).contains(&ticks), "a torn entry ends in {ticks} ticks");
    }
    let (mine, others) = dataplane.claims().live(NodeId::new(ME).unwrap(), Tick::at(monotonic_ns()));
    assert_eq!(mine + others, owners.len() as u64, "claims that are there twice, or that nobody made");
    let own = owners.keys().copied().filter(|key| dataplane.claim(*key).unwrap().owner() == ME);
    assert_eq!(own_keys(dataplane), sorted(own), "words that belong to no claim, or are missing");
}

#[test]
fn kernel_and_daemon_write_different_keys_at_once_and_neither_loses_any() {
    let pins = Pins::new("apart");
    let (mut kernel, mut daemon, _twin) = load_twice(&pins);
    daemon.set_peer(peer(), true, Epochs::EMPTY.with(EPOCH), &Peer::default()).unwrap();
    let mine: Vec<_> = (0..KEYS).map(|n| reply("mine", n)).collect();
    let others: Vec<_> = (0..KEYS).map(|n| reply("others", n).request_key()).collect();
    let (done, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut seen = 0_u64;
    thread::scope(|scope| {
        let daemon = &daemon;
        scope.spawn(|| {
            send_all(&mut kernel, &mine, |_| {});
            done.store(true, Ordering::Release);
        });
        // The daemon's side goes on as long as the kernel's; what it has written once is there ever after.
        while !done.load(Ordering::Acquire) {
            let next = written.load(Ordering::Relaxed);
            if let Some(key) = others.get(next) {
                daemon.set_claim(*key, peer(), EPOCH, PURPOSE, LIFETIME_MS);
                written.store(next + 1, Ordering::Relaxed);
            } else {
                daemon.set_claim(others[seen as usize % KEYS], peer(), EPOCH, PURPOSE, LIFETIME_MS);
            }
            let known = &others[..written.load(Ordering::Relaxed)];
            let key = known[(seen.wrapping_mul(7919) as usize) % known.len()];
            let entry = daemon.claim(key).unwrap_or_else(|| panic!("the claim on {key:016x} was lost meanwhile"));
            assert_eq!((entry.owner(), entry.epoch()), (PEER, EPOCH), "a torn entry");
            seen += 1;
        }
        for key in &others[written.load(Ordering::Relaxed)..] {
            daemon.set_claim(*key, peer(), EPOCH, PURPOSE, LIFETIME_MS);
        }
    });
    let mine = mine.iter().map(|sip| (sip.request_key(), &[ME][..]));
    check(&daemon, &mine.chain(others.iter().map(|key| (*key, &[PEER][..]))).collect());
    assert_eq!(daemon.outcomes().unwrap()["egress_lost"], 0);
}

#[test]
fn kernel_and_daemon_claim_the_same_keys_at_once_and_each_is_there_once() {
    let pins = Pins::new("same");
    let (mut kernel, mut daemon, _twin) = load_twice(&pins);
    daemon.set_peer(peer(), true, Epochs::EMPTY.with(EPOCH), &Peer::default()).unwrap();
    let messages: Vec<_> = (0..KEYS).map(|n| reply("same", n)).collect();
    let keys: Vec<_> = messages.iter().map(Sip::request_key).collect();
    let (sent, start) = (AtomicUsize::new(0), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            send_all(&mut kernel, &messages, |index| sent.store(index, Ordering::Release));
            sent.store(KEYS, Ordering::Release);
        });
        start.wait();
        for (index, key) in keys.iter().enumerate() {
            // Neither gets ahead: the kernel is about to make the same claim.
            while sent.load(Ordering::Acquire) < index {
                std::hint::spin_loop();
            }
            // Now a little later, now at once, so that all moments of the kernel's way are met.
            for _ in 0..index % MOMENTS {
                std::hint::spin_loop();
            }
            daemon.set_claim(*key, peer(), EPOCH, PURPOSE, LIFETIME_MS);
        }
    });
    check(&daemon, &keys.iter().map(|key| (*key, &[ME, PEER][..])).collect());
}

/// A table on the host, for what needs no kernel.
struct Memory(Vec<[u64; SLOTS]>);

impl Buckets for Memory {
    type Line = u32;

    fn line(&self, bucket: u32) -> Option<u32> {
        self.0.get(bucket as usize).map(|_| bucket)
    }

    fn read(&self, line: u32, slot: u32) -> Entry {
        Entry(self.0[line as usize][slot as usize])
    }

    fn exchange(&self, _place: Place, _old: Entry, _new: Entry) -> bool {
        false
    }

    fn hide(&mut self, value: u64) -> u64 {
        value
    }
}

fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Fills a table with so many keys; how many live claims had to give way.
fn filled(buckets: usize, keys: impl Iterator<Item = u64>) -> (Memory, usize) {
    let (mut memory, mask, now) = (Memory(vec![[0; SLOTS]; buckets]), buckets as u32 - 1, Tick::new(1));
    let mut lost = 0;
    for key in keys {
        let (place, old) = table::choose(&mut memory, mask, key, now).unwrap();
        lost += usize::from(old.remaining(now) != 0);
        memory.0[place.bucket as usize][place.slot as usize] = Entry::new(key, ME, 0, now.after(100)).0;
    }
    (memory, lost)
}

/// A foreign key matches an entry if 34 bits are the same: 2^-34 an entry, too seldom to be counted. So here all keys
/// share 22 of those bits, and 2^-12 an entry is left, which is counted: the other bits are all compared, and no more
/// entries are.
#[test]
fn a_foreign_key_matches_as_seldom_as_was_worked_out() {
    const LOOK_UPS: u64 = 1_000_000;
    const LEFT: u64 = 1 << 12;
    let shared = |n: u64| mixed(n) >> 22 | 0x2a_aaaa << 42;
    let buckets = 1 << 14;
    let claims = buckets as u64 * SLOTS as u64 / 2;
    let (memory, lost) = filled(buckets, (0..claims).map(shared));
    assert_eq!(lost, 0);
    let foreign = (claims..claims + LOOK_UPS).map(shared);
    let matches = foreign.filter(|key| table::find(&memory, buckets as u32 - 1, *key).is_some()).count() as f64;
    // Half of sixteen entries are taken. Six standard deviations of a Poisson number.
    let expected = (LOOK_UPS * SLOTS as u64 / LEFT) as f64;
    assert!((matches - expected).abs() < 6.0 * expected.sqrt(), "{matches} of {LOOK_UPS}, expected {expected}");
}

/// The daemon sizes the table to twice the slots of the claims in the configuration: half of them is the load to be
/// held.
#[test]
fn with_half_of_the_slots_taken_no_live_claim_gives_way_and_beyond_that_few_do() {
    let buckets = 1 << 14;
    let slots = buckets * SLOTS;
    let lost = |percent: usize| filled(buckets, (0..(slots * percent / 100) as u64).map(mixed)).1;
    let shares: Vec<_> = [50, 75, 90, 100, 200].map(|percent| (percent, lost(percent))).to_vec();
    eprintln!("live claims that gave way, of {slots} slots, by load in percent: {shares:?}");
    assert_eq!(shares[0].1, 0);
    assert!(shares[1].1 * 1000 < slots, "{shares:?}");
    assert!(shares[2].1 * 100 < slots, "{shares:?}");
    assert!(shares[3].1 * 100 < 10 * slots, "{shares:?}");
    // Full is full: each new claim takes the place of the one nearest to its end.
    assert!((slots * 99 / 100..=slots + shares[3].1).contains(&shares[4].1), "{shares:?}");
}

#[test]
fn claims_of_epochs_that_are_over_are_freed_while_the_kernel_claims_and_no_others() {
    let pins = Pins::new("freed");
    let (mut kernel, daemon, _twin) = load_twice(&pins);
    let over = Epoch::new(u64::from(EPOCH.number()) + 1);
    let mine: Vec<_> = (0..KEYS / 2).map(|n| reply("mine", n)).collect();
    let others: Vec<_> = (0..KEYS).map(|n| reply("others", n).request_key()).collect();
    let (kept, freed) = others.split_at(KEYS / 2);
    kept.iter().for_each(|key| daemon.set_claim(*key, peer(), EPOCH, PURPOSE, LIFETIME_MS));
    freed.iter().for_each(|key| daemon.set_claim(*key, peer(), over, PURPOSE, LIFETIME_MS));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            send_all(&mut kernel, &mine, |_| {});
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            daemon.claims().clear(0..daemon.claims().slots(), |owner, epoch| owner == PEER && epoch == over);
        }
    });
    let owned = kept.iter().map(|key| (*key, [PEER].as_slice()));
    let owned = owned.chain(mine.iter().map(|sip| (sip.request_key(), [ME].as_slice())));
    check(&daemon, &owned.collect());
}

/// The daemon claims what the program could not read, while the program claims what it can: both write words.
#[test]
fn kernel_and_daemon_claim_for_this_node_at_once_and_every_key_can_be_read_whole() {
    let pins = Pins::new("words");
    let (mut kernel, daemon, _twin) = load_twice(&pins);
    let mine: Vec<_> = (0..KEYS).map(|n| reply("mine", n)).collect();
    let read: Vec<_> = (0..KEYS).map(|n| reply("read", n).request_key()).collect();
    let service = daemon.sender(Address::v4([192, 0, 2, 10]), 5060).unwrap();
    let lifetime = daemon.lifetime(Kind::Response, Method::Invite, Some(180), Affinity::Transaction);
    let (done, mut next) = (AtomicBool::new(false), 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            send_all(&mut kernel, &mine, |_| {});
            done.store(true, Ordering::Release);
        });
        while next < KEYS {
            // Half of them while the kernel is at it, at the least.
            if next < KEYS / 2 || done.load(Ordering::Acquire) {
                assert!(daemon.claim_own((read[next], 0), KeyKind::Request, lifetime, &service).is_some());
                next += 1;
            }
        }
    });
    let owned = mine.iter().map(Sip::request_key).chain(read).map(|key| (key, [ME].as_slice()));
    check(&daemon, &owned.collect());
}

#[test]
fn a_daemon_that_follows_reads_its_claims_with_their_whole_keys_from_the_maps() {
    let pins = Pins::new("follows");
    let mut first = load(&pins.0);
    let services = vec![Epoch::new(9)];
    first.set_epochs(&Given { services }).unwrap();
    let invites: Vec<_> = (0..100).map(|n| Sip::invite(&format!("invite-{n}"))).collect();
    send_all(&mut first, &invites, |_| {});
    let service = first.sender(Address::v4([192, 0, 2, 10]), 5060).unwrap();
    let lifetime = first.lifetime(Kind::Request, Method::Other, None, Affinity::Transaction);
    let other = reply("other", 0).request_key();
    assert!(first.claim_own((other, 0), KeyKind::Request, lifetime, &service).is_some());
    // What the daemon writes as its core says: its own claim where a peer's stood, and a peer's.
    let (core, peers) = (reply("core", 0).request_key(), reply("peers", 0).request_key());
    first.set_claim(core, NodeId::new(ME).unwrap(), Epoch::new(9), PURPOSE, LIFETIME_MS);
    first.set_claim(peers, peer(), EPOCH, PURPOSE, LIFETIME_MS);
    // Of a run that is over.
    first.set_claim(reply("stale", 0).request_key(), NodeId::new(ME).unwrap(), Epoch::new(1), PURPOSE, LIFETIME_MS);
    drop(first);

    let second = load(&pins.0);
    let given = second.inherited().given.unwrap();
    assert_eq!(given, Given { services: vec![Epoch::new(9)] });
    let known: HashMap<u64, OwnClaim> = second.own_claims().map(|claim| (claim.key, claim)).collect();
    assert_eq!(known.len(), 2 * invites.len() + 2);
    for invite in &invites {
        for (key, kind) in [(invite.request_key(), KeyKind::Request), (invite.reply_key(), KeyKind::Reply)] {
            let OwnClaim { epoch, remaining_ms, rest, .. } = known[&key];
            let expected = (Epoch::new(9), 0, Some(kind), Some(Class::Proceeding));
            assert_eq!((epoch, rest.service(), rest.kind(), rest.class()), expected);
            assert!((3_000_000..=LIFETIME_MS * 2).contains(&remaining_ms), "{remaining_ms}");
        }
    }
    let noted = |key: u64| {
        let OwnClaim { epoch, rest, .. } = known[&key];
        (epoch, rest.service(), rest.kind(), rest.class())
    };
    assert_eq!(noted(other), (Epoch::new(9), 0, Some(KeyKind::Request), Some(Class::Short)));
    let purpose = (Some(KeyKind::Request), Some(Class::Proceeding));
    assert_eq!(noted(core), (Epoch::new(9), abi::NO_SERVICE, purpose.0, purpose.1), "as its core says");
}

#[test]
fn maps_of_another_version_or_size_are_not_taken_over() {
    let pins = Pins::new("others");
    let mut first = load(&pins.0);
    send_all(&mut first, &[Sip::invite("call")], |_| {});
    drop(first);
    // Both maps begin anew where the claims to hold have changed, and all else goes on.
    let larger = load_for(&pins.0, CLAIMS * 2);
    assert!(larger.own_claims().next().is_none() && larger.claims().slots() == CLAIMS as usize * 4);
    assert!(larger.inherited().given.is_some());
    drop(larger);

    let (version, earlier) = (pins.0.join(format!("v{}", abi::VERSION)), pins.0.join("v2"));
    fs::rename(&version, &earlier).unwrap();
    let fresh = load(&pins.0);
    assert!(fresh.inherited().given.is_none());
    assert!(version.exists() && !earlier.exists(), "no program goes by the maps of the earlier version any more");
}
