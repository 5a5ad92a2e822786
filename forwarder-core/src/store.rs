//! Every claim this node knows, its own and its peers', one for each key.
//!
//! Of two nodes' claims of one key that which is held stays while it counts. Which of the two it is to be in the end
//! their owners settle, see [`crate::node`]; a store only believes them. Bounded: when full, claims near their end make
//! room. Made of many small tables, so that none ever grows for longer than a few microseconds; nothing depends on the
//! order in which they are walked but who makes room: by what a claim is worth, as in the kernel's table.

mod entry;
mod held;
mod owners;

use forwarder_common::{
    abi::{Lifetimes, NO_SERVICE},
    hash::salted,
    ids::{Epoch, Epochs, NodeId},
    lifetime::LONGEST,
    rest::Class,
    worth::{self, Standing},
};
use hashbrown::HashTable;

use self::held::Held;
use self::owners::Owners;

pub use self::entry::{Entry, LATEST_UNIX_US, Version};

/// Claims in one table when the store is full: three quarters of the 256 places that it has then.
const TABLE_CLAIMS: usize = 192;
/// Tables looked at for a claim that makes room; with more than one, that is because all before were empty.
const EVICTION_TABLES: usize = 64;
/// Microseconds of a tick, in which the kernel's table measures lifetimes, rounded down.
const TICK_US: u64 = 4_294_967;

/// What became of a claim that was merged into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// Nobody held the key.
    New,
    /// The owner held the key already, like this; the later of the versions counts.
    Known(Entry),
    /// It took the place of this one, which does not count.
    Won(Entry),
    /// The claim of this node counts, and stays.
    Lost(NodeId),
    /// The store is full of claims that are worth more, see [`forwarder_common::worth`], or that are this node's.
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
    /// The node whose effective claims make room for nobody else's.
    me: Option<NodeId>,
    /// By which claims are measured.
    lifetimes: Lifetimes,
}

impl Store {
    /// A store for at most `capacity` claims, at least one.
    #[must_use]
    pub fn new(capacity: usize, salt: u64) -> Self {
        let capacity = capacity.max(1);
        let tables = (0..capacity.div_ceil(TABLE_CLAIMS)).map(|_| HashTable::new()).collect();
        Self {
            tables,
            owners: Owners::new(),
            len: 0,
            capacity,
            salt,
            swept: 0,
            evicted: 0,
            me: None,
            lifetimes: LONGEST,
        }
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

    /// This is the node that the store is of: its effective claims make room for its own alone.
    pub const fn set_me(&mut self, me: NodeId) {
        self.me = Some(me);
    }

    /// How long claims of each class last: what is left of a claim is measured by that.
    pub const fn set_lifetimes(&mut self, lifetimes: Lifetimes) {
        self.lifetimes = lifetimes;
    }

    /// The present incarnation of an owner's daemon has said all that it claims: what only an earlier one has said
    /// gives way to others' claims. `None`: it may be yet to say it.
    pub fn set_complete(&mut self, owner: NodeId, generation: Option<u8>) {
        self.owners.set_complete(owner, generation);
    }

    /// Whether a claim stays where others claim its key: it is effective, and its owner's daemon has not left it out
    /// since it has begun anew.
    #[must_use]
    pub fn counts(&self, entry: &Entry) -> bool {
        let owner = entry.owner.number();
        self.owners.is_effective(owner, entry.epoch) && !self.owners.is_left_out(owner, entry.version.generation)
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

    /// Whether no claim of that owner and epoch is kept: the epoch is known to be over, or the owner has been down for
    /// a minute. It says all its claims anew when it is back.
    #[must_use]
    pub fn is_swept(&self, owner: NodeId, epoch: Epoch) -> bool {
        self.owners.is_swept(owner.number(), epoch)
    }

    /// Which owners have been down for a minute, by their ids, as of the last walk.
    #[must_use]
    pub fn gone(&self) -> &[bool] {
        self.owners.gone()
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

    /// Puts a claim in the place of `key`'s: what their owners have settled, or what is left of several. False, and
    /// nothing is put in, if none is held.
    pub fn replace(&mut self, key: u64, claim: Entry) -> bool {
        self.change(key, |_| claim)
    }

    /// Takes `key`'s claim out.
    pub fn remove(&mut self, key: u64) {
        let hash = self.hash(key);
        let at = self.table_of(hash);
        let Some(table) = self.tables.get_mut(at) else { return };
        if let Ok(found) = table.find_entry(hash, |held| held.key == key) {
            let (held, _) = found.remove();
            self.len -= 1;
            self.owners.take_one(held.owner());
        }
    }

    /// Merges a claim: one that is held stays if it counts or if neither does.
    ///
    /// Of two versions of one claim the later one counts, see [`Self::are_versions`] and [`Entry::after`].
    pub fn merge(&mut self, key: u64, claim: Entry, now_us: u64) -> Merged {
        let Some(held) = self.live(key, now_us) else { return self.insert(key, claim, now_us) };
        if self.are_versions(&held, &claim) {
            self.change(key, |held| held.after(claim));
            return Merged::Known(held);
        }
        if self.counts(&held) || !self.counts(&claim) {
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

    /// Removes claims whose end has passed, and those of [`Self::is_swept`], from the next tables, looking at about
    /// `budget` claims; whether all tables have had their turn. A walk begins with a look at who is gone.
    pub fn sweep(&mut self, now_us: u64, budget: usize) -> bool {
        let mut looks = 0;
        if self.swept == 0 {
            self.owners.look(now_us);
        }
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
                let stays = !has_ended && !owners.is_swept(claim.owner(), claim.epoch());
                if !stays {
                    owners.take_one(claim.owner());
                }
                stays
            });
            self.len -= before - table.len();
            if table.len() < table.capacity() / 4 {
                let salt = self.salt;
                table.shrink_to(table.len() * 2, |claim| salted(claim.key, salt));
            }
        }
        false
    }

    fn insert(&mut self, key: u64, claim: Entry, now_us: u64) -> Merged {
        let hash = self.hash(key);
        let at = self.table_of(hash);
        // One that has ended is not swept yet: this takes its place.
        if self.change(key, |_| claim) {
            return Merged::New;
        }
        if self.len >= self.capacity && !self.evict(at, &claim, now_us) {
            return Merged::Refused;
        }
        let salt = self.salt;
        if let Some(table) = self.tables.get_mut(at) {
            table.insert_unique(hash, Held::new(key, &claim), |claim| salted(claim.key, salt));
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

    /// Removes the claim that is worth least in the first table from `at` on that has any, so that a newcomer has room;
    /// false if that is worth more than the newcomer. No other owner displaces what this node owns.
    fn evict(&mut self, at: usize, newcomer: &Entry, now_us: u64) -> bool {
        let owner = newcomer.owner;
        let worth_of = |of: u16, epoch: Epoch, class: Class, expires_us: u64| {
            let is_of_many = u64::from(self.owners.held(of) * 2 >= self.capacity);
            let left_us = if self.owners.is_effective(of, epoch) { expires_us.saturating_sub(now_us) } else { 0 };
            let share = worth::share(left_us.div_ceil(TICK_US), class, &self.lifetimes);
            let standing = if left_us == 0 { Standing::default() } else { Standing::new(of, NO_SERVICE, share) };
            worth::worth(standing, is_of_many, is_of_many)
        };
        let most = worth_of(owner.number(), newcomer.epoch, newcomer.purpose.class(), newcomer.expires_us);
        for step in 0..EVICTION_TABLES {
            let index = (at + step) % self.tables.len();
            let Some(table) = self.tables.get(index) else { continue };
            let may_go = |claim: &&Held| {
                let is_own = self.me.is_some_and(|me| me != owner && me.number() == claim.owner());
                !is_own || !self.owners.is_effective(claim.owner(), claim.epoch())
            };
            let weighed = table.iter().filter(may_go).map(|claim| {
                let worth = worth_of(claim.owner(), claim.epoch(), claim.class(), claim.expires_us());
                ((worth, claim.expires_us(), claim.key), *claim)
            });
            let Some(((worth, ..), victim)) = weighed.min_by_key(|(order, _)| *order) else { continue };
            if worth > most {
                return false;
            }
            let hash = salted(victim.key, self.salt);
            let Some(table) = self.tables.get_mut(index) else { continue };
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
        salted(key, self.salt)
    }

    /// By the middle of the hash; the tables themselves go by its two ends.
    fn table_of(&self, hash: u64) -> usize {
        (((hash & 0xffff_ffff) * self.tables.len() as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests;
