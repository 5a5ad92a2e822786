//! The claim table's memory and that of the keys beside it: mapped into the daemon, shared with the kernel, touched by
//! atomic accesses only.

use std::{
    ops::Range,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use forwarder_common::{
    abi::Lifetimes,
    ids::{Epoch, Epochs, NodeId, Tick},
    rest::{Class, Rest, Stage, Step},
    table::{self, Buckets, Entry, Place, SLOTS},
    worth::{self, NoRoom, Scales, Standing, Weighs},
};

/// Tries of a compare-and-swap against the kernel before a claim is given up: each failure means another has written.
const TRIES: usize = 8;

/// The mapped table.
#[derive(Debug)]
pub struct Table {
    entries: &'static [AtomicU64],
    /// The rest of each entry's key, and what the claim was made for.
    rests: &'static [AtomicU64],
    not_kept: AtomicU64,
}

/// By what it is decided who makes room in a full table.
pub(crate) struct Rules<'a> {
    pub(crate) now: Tick,
    pub(crate) lifetimes: &'a Lifetimes,
    /// The live epochs of a node, none of one that is down.
    pub(crate) live: &'a dyn Fn(u16) -> Epochs,
}

impl Rules<'_> {
    fn standing(&self, entry: Entry, rest: Rest) -> Standing {
        Standing::of(entry, rest, self.now, (self.live)(entry.owner()), self.lifetimes)
    }
}

/// The table while its claims are weighed.
struct Weighed<'a> {
    table: &'a Table,
    rules: &'a Rules<'a>,
    scales: Scales,
}

/// A claim of this node as the maps have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnClaim {
    /// The whole key.
    pub key: u64,
    /// The epoch that it was made under, a live one.
    pub epoch: Epoch,
    /// How long it lasts from now on, in milliseconds; more than 0.
    pub remaining_ms: u64,
    /// What it was made for.
    pub rest: Rest,
}

impl Table {
    /// Maps the array maps of so many buckets each.
    pub(super) fn map(claims: &MapData, keys: &MapData, buckets: u32) -> Result<Self> {
        let mut table = Self { entries: mapped(claims, buckets)?, rests: &[], not_kept: AtomicU64::new(0) };
        // Dropped, and so unmapped, if this fails.
        table.rests = mapped(keys, buckets)?;
        Ok(table)
    }

    /// A table of so many buckets that no kernel has.
    #[cfg(test)]
    pub(crate) fn anonymous(buckets: u32) -> Self {
        let words = || {
            let length = buckets as usize * SLOTS * size_of::<u64>();
            let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
            // SAFETY: a new mapping of nothing.
            let memory = unsafe { libc::mmap(ptr::null_mut(), length, access, flags, -1, 0) };
            assert_ne!(memory, libc::MAP_FAILED);
            // SAFETY: as of `mapped`.
            unsafe { std::slice::from_raw_parts(memory.cast::<AtomicU64>(), buckets as usize * SLOTS) }
        };
        Self { entries: words(), rests: words(), not_kept: AtomicU64::new(0) }
    }

    /// Slots in all.
    #[must_use]
    pub const fn slots(&self) -> usize {
        self.entries.len()
    }

    /// All entries in the order of their places, empty ones included, as each is at the moment at which it is read.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.entries.iter().map(|entry| Entry(entry.load(Ordering::Relaxed)))
    }

    /// Unexpired claims of `node` and of all others.
    #[must_use]
    pub fn live(&self, node: NodeId, now: Tick) -> (u64, u64) {
        let owners = self.by_owner(now);
        let own = owners.get(usize::from(node.number())).copied().unwrap_or_default();
        (own, owners.iter().sum::<u64>() - own)
    }

    /// Unexpired claims of each node, by its id.
    #[must_use]
    pub fn by_owner(&self, now: Tick) -> Vec<u64> {
        let mut owners = vec![0; usize::from(NodeId::MAX) + 1];
        for entry in self.entries().filter(|entry| entry.remaining(now) != 0) {
            if let Some(claims) = owners.get_mut(usize::from(entry.owner())) {
                *claims += 1;
            }
        }
        owners
    }

    /// The unexpired claims that `node` has made under these epochs, each with its place in the table.
    pub fn own(&self, node: NodeId, epochs: Epochs, now: Tick) -> impl Iterator<Item = (usize, Entry)> {
        let entries = self.entries.iter().map(|entry| Entry(entry.load(Ordering::Relaxed))).enumerate();
        let is_own = move |entry: &Entry| entry.owner() == node.number() && epochs.contains(entry.epoch());
        entries.filter(move |(_, entry)| is_own(entry) && entry.remaining(now) != 0)
    }

    /// The same with their whole keys. A claim whose key was not noted, or not for it, is left out.
    pub fn own_keyed(&self, node: NodeId, epochs: Epochs, now: Tick) -> impl Iterator<Item = OwnClaim> {
        self.own(node, epochs, now).filter_map(move |(slot, entry)| {
            let rest = Rest(self.rests.get(slot)?.load(Ordering::Relaxed));
            let key = rest.key(entry, u32::try_from(slot / SLOTS).ok()?, self.mask())?;
            let remaining_ms = Tick::milliseconds(u16::try_from(entry.remaining(now)).ok()?);
            Some(OwnClaim { key, epoch: entry.epoch(), remaining_ms, rest })
        })
    }

    /// Frees those of these slots whose claims are ineffective, by their owner and epoch.
    pub fn clear(&self, slots: Range<usize>, is_ineffective: impl Fn(u16, Epoch) -> bool) {
        for slot in self.entries.get(slots).unwrap_or_default() {
            let entry = Entry(slot.load(Ordering::Relaxed));
            if entry.owner() != 0 && is_ineffective(entry.owner(), entry.epoch()) {
                // One that was written meanwhile stays.
                let _ = slot.compare_exchange(entry.0, 0, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    }

    /// Writes `entry` for `key` over what the table has for it, else into the place that gives way, and `rest` beside
    /// it; without one what is there stays. False if it was not written: all claims there are worth more.
    pub(crate) fn set(&self, key: u64, entry: Entry, rest: Option<Rest>, rules: &Rules<'_>) -> bool {
        for _ in 0..TRIES {
            let (place, old) = match self.place(key, entry, rest.unwrap_or_default(), rules) {
                Ok(found) => found,
                Err(NoRoom::Changed) => continue,
                Err(NoRoom::WorthMore) => {
                    self.not_kept.fetch_add(1, Ordering::Relaxed);
                    return false;
                }
            };
            if self.exchange(place, old, entry) {
                if let Some((word, rest)) = self.rest(place).zip(rest) {
                    // After the exchange, as egress does: of two writers of a place the one that won writes the word.
                    word.store(rest.0, Ordering::Relaxed);
                }
                self.clear_others(key, place);
                return true;
            }
        }
        log::warn!("a claim was not written: the kernel changed its place {TRIES} times");
        false
    }

    /// Where `entry` for `key` goes, and what is there.
    fn place(&self, key: u64, entry: Entry, rest: Rest, rules: &Rules<'_>) -> Result<(Place, Entry), NoRoom> {
        let (mut table, mask) = (self, self.mask());
        if let Some(found) = table::find(&table, mask, key) {
            return Ok(found);
        }
        let (place, old) = table::choose(&mut table, mask, key, rules.now).ok_or(NoRoom::Changed)?;
        if old.remaining(rules.now) == 0 {
            return Ok((place, old));
        }
        let scales = Scales::new(rules.standing(entry, rest));
        worth::make_room(&mut Weighed { table: self, rules, scales }, mask, key)
    }

    /// Claims that were not written because the table was full of others that are worth more.
    #[must_use]
    pub fn not_kept(&self) -> u64 {
        self.not_kept.load(Ordering::Relaxed)
    }

    /// Writes over the claim that the table has for `key` what `change` makes of it, if anything; it is of this class
    /// then.
    pub(super) fn replace(&self, key: u64, class: Class, change: impl Fn(Entry) -> Option<Entry>) {
        for _ in 0..TRIES {
            let Some((place, old)) = table::find(&self, self.mask(), key) else { return };
            let Some(entry) = change(old) else { return };
            if self.exchange(place, old, entry) {
                if let Some(word) = self.rest(place) {
                    word.store(Rest(word.load(Ordering::Relaxed)).with_class(class).0, Ordering::Relaxed);
                }
                return;
            }
        }
    }

    /// Notes how far the transaction has come whose request key this node has claimed.
    pub(super) fn note_step(&self, key: u64, step: Step) {
        if let Some((word, old)) = self.rest_of(key) {
            // Who has written meanwhile has noted something later, or is of another claim.
            let _ = word.compare_exchange(old.0, old.after(step).0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// How far it has come.
    pub(super) fn stage(&self, key: u64) -> Stage {
        self.rest_of(key).map_or(Stage::Begun, |(_, rest)| rest.stage())
    }

    /// The word beside the claim of a key, if it is that one's.
    fn rest_of(&self, key: u64) -> Option<(&AtomicU64, Rest)> {
        let word = self.rest(table::find(&self, self.mask(), key)?.0)?;
        let rest = Rest(word.load(Ordering::Relaxed));
        rest.is_of(key).then_some((word, rest))
    }

    /// Two writers of one key may both have found no entry: of two, one would hide the other.
    fn clear_others(&self, key: u64, kept: Place) {
        for bucket in table::buckets(key, self.mask()) {
            for slot in 0..SLOTS as u32 {
                let place = Place { bucket, slot };
                match self.load(place) {
                    Some(entry) if place != kept && entry.owner() != 0 && entry.matches(key) => {
                        self.exchange(place, entry, Entry(0));
                    }
                    _ => {}
                }
            }
        }
    }

    fn mask(&self) -> u32 {
        (self.entries.len() / SLOTS) as u32 - 1
    }

    fn slot(&self, place: Place) -> Option<&AtomicU64> {
        self.entries.get(place.bucket as usize * SLOTS + place.slot as usize)
    }

    fn rest(&self, place: Place) -> Option<&AtomicU64> {
        self.rests.get(place.bucket as usize * SLOTS + place.slot as usize)
    }

    fn load(&self, place: Place) -> Option<Entry> {
        Some(Entry(self.slot(place)?.load(Ordering::Acquire)))
    }

    fn exchange(&self, place: Place, old: Entry, new: Entry) -> bool {
        let Some(slot) = self.slot(place) else { return false };
        slot.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// Maps an array map of so many buckets of words.
fn mapped(map: &MapData, buckets: u32) -> Result<&'static [AtomicU64]> {
    let words = buckets as usize * SLOTS;
    let length = words * size_of::<u64>();
    // SAFETY: a new shared mapping of a map that was created with BPF_F_MMAPABLE; the kernel checks the length.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            map.fd().as_fd().as_raw_fd(),
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("map the claim table of {length} bytes into memory"));
    }
    // SAFETY: the mapping has that length, is aligned to a page, and is unmapped only when its table is dropped.
    Ok(unsafe { std::slice::from_raw_parts(memory.cast::<AtomicU64>(), words) })
}

impl Buckets for &Table {
    type Line = u32;

    fn line(&self, bucket: u32) -> Option<u32> {
        (bucket <= self.mask()).then_some(bucket)
    }

    fn read(&self, line: u32, slot: u32) -> Entry {
        // An empty entry outside the table, where no line lies.
        Table::load(self, Place { bucket: line, slot }).unwrap_or_default()
    }

    fn exchange(&self, place: Place, old: Entry, new: Entry) -> bool {
        Table::exchange(self, place, old, new)
    }

    fn hide(&mut self, value: u64) -> u64 {
        value
    }
}

impl Buckets for Weighed<'_> {
    type Line = u32;

    fn line(&self, bucket: u32) -> Option<u32> {
        self.table.line(bucket)
    }

    fn read(&self, line: u32, slot: u32) -> Entry {
        self.table.read(line, slot)
    }

    fn exchange(&self, place: Place, old: Entry, new: Entry) -> bool {
        self.table.exchange(place, old, new)
    }

    fn hide(&mut self, value: u64) -> u64 {
        value
    }
}

impl Weighs for Weighed<'_> {
    fn weigh(&mut self, number: usize, place: Place) {
        let entry = self.table.load(place).unwrap_or_default();
        let rest = self.table.rest(place).map_or(0, |word| word.load(Ordering::Relaxed));
        self.scales.put(number, self.rules.standing(entry, Rest(rest)));
    }

    fn worth(&mut self, number: usize) -> u64 {
        self.scales.worth(number)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        for words in [self.entries, self.rests].into_iter().filter(|words| !words.is_empty()) {
            // SAFETY: the mapping was made by `mapped` with this length, and no reference to it outlives `self`.
            unsafe { libc::munmap(words.as_ptr().cast_mut().cast(), size_of_val(words)) };
        }
    }
}
