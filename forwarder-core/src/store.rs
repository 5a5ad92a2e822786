//! Every claim this node knows, its own and its peers', and the rule that says which of two claims wins.
//!
//! The rule is a minimum over (ineffective, claimed at, owner, epoch), so order and repetition of arrivals do not
//! matter and all nodes come to the same owner. Bounded: when full, claims near their end make room. Made of many small
//! tables, so that none ever grows for longer than a few microseconds; nothing depends on the order in which they are
//! walked but who makes room.

mod entry;
mod held;
mod owners;

use forwarder_common::ids::{Epoch, Epochs, NodeId};
use hashbrown::HashTable;

use self::held::Held;
use self::owners::Owners;

pub use self::entry::{Entry, LATEST_UNIX_US, Version};

/// Claims in one table when the store is full: three quarters of the 256 places that it has then.
const TABLE_CLAIMS: usize = 192;
/// Tables looked at for a claim that makes room; with more than one, that is because all before were empty.
const EVICTION_TABLES: usize = 64;
/// What became of a claim that was merged into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// Nobody held the key.
    New,
    /// The owner held the key already, like this; the later of the versions counts.
    Known(Entry),
    /// It won against this one and took its place.
    Won(Entry),
    /// The claim of this node won.
    Lost(NodeId),
    /// The store is full, and this owner has its share.
    Refused,
}

/// The claims.
#[derive(Debug)]
pub struct Store {
    tables: Vec<HashTable<Held>>,
    owners: Owners,
    len: usize,
    capacity: usize,
    /// Against peers that choose keys which fall together.
    salt: u64,
    /// The table that is swept next.
    swept: usize,
    evicted: u64,
}

impl Store {
    /// A store for at most `capacity` claims, at least one.
    #[must_use]
    pub fn new(capacity: usize, salt: u64) -> Self {
        let capacity = capacity.max(1);
        let tables = (0..capacity.div_ceil(TABLE_CLAIMS)).map(|_| HashTable::new()).collect();
        Self { tables, owners: Owners::new(), len: 0, capacity, salt, swept: 0, evicted: 0 }
    }

    /// These epochs of an owner are live: the next walk removes its claims of others, so that none is there any more
    /// when the epochs' sixteen numbers come round again.
    pub fn set_epochs(&mut self, owner: NodeId, epochs: Epochs) {
        self.owners.set_epochs(owner, epochs);
    }

    /// Whether an owner is up; none is until this is said.
    pub fn set_up(&mut self, owner: NodeId, is_up: bool) {
        self.owners.set_up(owner, is_up);
    }

    /// The owners' live epochs by their ids, as far as they are known.
    #[must_use]
    pub fn epochs(&self) -> &[Option<Epochs>] {
        self.owners.epochs()
    }

    /// Whether a claim of that owner and epoch counts while it lasts: the owner is up and the epoch live.
    #[must_use]
    pub fn is_effective(&self, owner: NodeId, epoch: Epoch) -> bool {
        self.owners.is_effective(owner.number(), epoch)
    }

    /// Whether that epoch of the owner is known to be over.
    #[must_use]
    pub fn is_stale(&self, owner: NodeId, epoch: Epoch) -> bool {
        self.owners.is_stale(owner.number(), epoch)
    }

    /// The claims held, with those whose end has passed but that are not swept yet.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no claim is held.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The claims held of one owner, ended ones included.
    #[must_use]
    pub fn held_by(&self, owner: NodeId) -> usize {
        self.owners.held(owner.number())
    }

    /// Claims that made room for others before their end.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The claim of `key` that is alive at `now_us`.
    #[must_use]
    pub fn live(&self, key: u64, now_us: u64) -> Option<Entry> {
        let hash = self.hash(key);
        let entry = self.tables.get(self.table_of(hash))?.find(hash, |held| held.key == key)?.entry();
        entry.filter(|entry| entry.expires_us > now_us)
    }

    /// The kernel's map has been told the end of `key`'s claim.
    pub fn set_told(&mut self, key: u64) {
        self.change(key, |entry| Entry { told_us: entry.expires_us, ..entry });
    }

    /// `key`'s claim has another number.
    pub fn set_number(&mut self, key: u64, number: u64) {
        self.change(key, |entry| Entry { version: Version { number, ..entry.version }, ..entry });
    }

    /// Merges a claim: the earlier one wins, ties go to the lower node id, an ineffective one wins against none that is
    /// effective.
    ///
    /// Of two versions of one claim the later one counts, see [`Self::are_versions`] and [`Entry::after`].
    pub fn merge(&mut self, key: u64, claim: Entry, now_us: u64) -> Merged {
        let Some(held) = self.live(key, now_us) else { return self.insert(key, claim) };
        if self.are_versions(&held, &claim) {
            self.change(key, |held| held.after(claim));
            return Merged::Known(held);
        }
        let rank = |entry: &Entry| {
            let is_ineffective = !self.is_effective(entry.owner, entry.epoch);
            (is_ineffective, entry.claimed_at_unix_us, entry.owner, entry.epoch.number())
        };
        if rank(&claim) >= rank(&held) {
            return Merged::Lost(held.owner);
        }
        self.change(key, |_| claim);
        Merged::Won(held)
    }

    /// Whether two entries of a key are versions of one claim: those of one owner in one epoch, or in live ones.
    #[must_use]
    pub fn are_versions(&self, one: &Entry, other: &Entry) -> bool {
        let are_effective = || [one, other].iter().all(|entry| self.is_effective(entry.owner, entry.epoch));
        one.owner == other.owner && (one.epoch == other.epoch || are_effective())
    }

    /// Removes claims whose end has passed, and stale ones, from the next tables, looking at about
    /// `budget` claims; whether all tables have had their turn.
    pub fn sweep(&mut self, now_us: u64, budget: usize) -> bool {
        let mut looks = 0;
        while looks < budget {
            let Some(table) = self.tables.get_mut(self.swept) else {
                self.swept = 0;
                return true;
            };
            self.swept += 1;
            let before = table.len();
            looks += before + 1;
            let owners = &mut self.owners;
            table.retain(|claim| {
                let has_ended = claim.expires_us() <= now_us;
                let stays = !has_ended && !owners.is_stale(claim.owner(), claim.epoch());
                if !stays {
                    owners.take_one(claim.owner());
                }
                stays
            });
            self.len -= before - table.len();
            if table.len() < table.capacity() / 4 {
                let salt = self.salt;
                table.shrink_to(table.len() * 2, |claim| hash(claim.key, salt));
            }
        }
        false
    }

    fn insert(&mut self, key: u64, claim: Entry) -> Merged {
        let hash = self.hash(key);
        let at = self.table_of(hash);
        // One that has ended is not swept yet: this takes its place.
        if self.change(key, |_| claim) {
            return Merged::New;
        }
        if self.len >= self.capacity && !self.evict(at, claim.owner) {
            return Merged::Refused;
        }
        let salt = self.salt;
        if let Some(table) = self.tables.get_mut(at) {
            table.insert_unique(hash, Held::new(key, &claim), |claim| self::hash(claim.key, salt));
            self.len += 1;
            self.owners.add_one(claim.owner.number());
        }
        Merged::New
    }

    /// Puts another entry in the place of `key`'s; false if there is none.
    fn change(&mut self, key: u64, change: impl FnOnce(Entry) -> Entry) -> bool {
        let hash = self.hash(key);
        let at = self.table_of(hash);
        let Some(held) = self.tables.get_mut(at).and_then(|table| table.find_mut(hash, |held| held.key == key)) else {
            return false;
        };
        let Some(entry) = held.entry() else { return false };
        let changed = change(entry);
        *held = Held::new(key, &changed);
        if changed.owner != entry.owner {
            self.owners.take_one(entry.owner.number());
            self.owners.add_one(changed.owner.number());
        }
        true
    }

    /// Removes the claim nearest to its end in the first table from `at` on that has any. An owner that holds three
    /// quarters of the store makes room with its own, so that a peer that claims without end cannot displace the claims
    /// of all others; false if it has none here.
    fn evict(&mut self, at: usize, owner: NodeId) -> bool {
        let is_full = self.held_by(owner) * 4 >= self.capacity * 3 && self.capacity >= 4;
        for step in 0..EVICTION_TABLES {
            let index = (at + step) % self.tables.len();
            let Some(table) = self.tables.get_mut(index) else { continue };
            let candidates = table.iter().filter(|claim| !is_full || claim.owner() == owner.number());
            let Some(victim) = candidates.min_by_key(|claim| (claim.expires_us(), claim.key)).copied() else {
                continue;
            };
            let hash = hash(victim.key, self.salt);
            if let Ok(found) = table.find_entry(hash, |claim| claim.key == victim.key) {
                found.remove();
                self.len -= 1;
                self.evicted += 1;
                self.owners.take_one(victim.owner());
                return true;
            }
        }
        false
    }

    fn hash(&self, key: u64) -> u64 {
        hash(key, self.salt)
    }

    /// By the middle of the hash; the tables themselves go by its two ends.
    fn table_of(&self, hash: u64) -> usize {
        (((hash & 0xffff_ffff) * self.tables.len() as u64) >> 32) as usize
    }
}

/// Keys are hashes already; this only makes it unforeseeable which of them fall together.
const fn hash(key: u64, salt: u64) -> u64 {
    let wide = (key ^ salt) as u128 * 0x9e37_79b9_7f4a_7c15;
    ((wide >> 64) as u64 ^ wide as u64).rotate_left(32)
}

#[cfg(test)]
mod tests;
