//! A claim in 32 bytes: there may be millions.

use forwarder_common::ids::{Epoch, NodeId};

use super::Entry;

const OWNER_BITS: u32 = 10;
const EPOCH_BITS: u32 = 4;
const END_SHIFT: u32 = OWNER_BITS + EPOCH_BITS + 1;
/// The latest end that there is room for: 17 years of a host's monotonic clock.
const LAST_US: u64 = u64::MAX >> END_SHIFT;

/// An [`Entry`] with its key. The end, the owner, the epoch and the flag share a word, in this order from the top.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) key: u64,
    claimed_at_unix_us: u64,
    mark: u64,
    word: u64,
}

impl Held {
    pub(super) fn new(key: u64, entry: &Entry) -> Self {
        let owner = u64::from(entry.owner.number());
        let epoch = u64::from(entry.epoch.number());
        let word = entry.expires_us.min(LAST_US) << END_SHIFT
            | owner << (EPOCH_BITS + 1)
            | epoch << 1
            | u64::from(entry.lengthened);
        Self { key, claimed_at_unix_us: entry.claimed_at_unix_us, mark: entry.mark, word }
    }

    /// The entry; `None` is one without an owner, which is never put in.
    pub(super) fn entry(&self) -> Option<Entry> {
        Some(Entry {
            owner: NodeId::new(self.owner())?,
            epoch: Epoch::new(self.word >> 1),
            claimed_at_unix_us: self.claimed_at_unix_us,
            expires_us: self.expires_us(),
            mark: self.mark,
            lengthened: self.word & 1 != 0,
        })
    }

    pub(super) const fn owner(&self) -> u16 {
        (self.word >> (EPOCH_BITS + 1)) as u16 & ((1 << OWNER_BITS) - 1)
    }

    pub(super) const fn expires_us(&self) -> u64 {
        self.word >> END_SHIFT
    }
}
