//! A claim in 32 bytes: there may be millions.

use forwarder_common::ids::{Epoch, NodeId};

use super::entry::Entry;
use super::word::Word;

const OWNER_BITS: u32 = 10;
const EPOCH_BITS: u32 = 4;
const NUMBER_BITS: u32 = 8;
/// Bits that share a word with an end or a mark: owner, epoch and a spare one, or number and session.
const SHIFT: u32 = OWNER_BITS + EPOCH_BITS + 1;
/// The latest end, and the highest mark, that there is room for: 17 years of a host's monotonic clock.
const MOST: u64 = u64::MAX >> SHIFT;

/// An [`Entry`] with its key. The end shares a word with owner and epoch, the mark with session and number of the
/// owner's last word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) key: u64,
    claimed_at_unix_us: u64,
    mark: u64,
    end: u64,
}

impl Held {
    pub(super) fn new(key: u64, entry: &Entry) -> Self {
        let owner = u64::from(entry.owner.number());
        let epoch = u64::from(entry.epoch.number());
        let Word { session, number } = entry.word;
        Self {
            key,
            claimed_at_unix_us: entry.claimed_at_unix_us,
            mark: entry.mark.min(MOST) << SHIFT | u64::from(session & 0x7f) << NUMBER_BITS | u64::from(number),
            end: entry.expires_us.min(MOST) << SHIFT | owner << EPOCH_BITS | epoch,
        }
    }

    /// The entry; `None` is one without an owner, which is never put in.
    pub(super) fn entry(&self) -> Option<Entry> {
        Some(Entry {
            owner: NodeId::new(self.owner())?,
            epoch: self.epoch(),
            claimed_at_unix_us: self.claimed_at_unix_us,
            expires_us: self.expires_us(),
            mark: self.mark >> SHIFT,
            word: Word { session: (self.mark >> NUMBER_BITS) as u8 & 0x7f, number: self.mark as u8 },
        })
    }

    pub(super) const fn owner(&self) -> u16 {
        (self.end >> EPOCH_BITS) as u16 & ((1 << OWNER_BITS) - 1)
    }

    pub(super) const fn epoch(&self) -> Epoch {
        Epoch::new(self.end)
    }

    pub(super) const fn expires_us(&self) -> u64 {
        self.end >> SHIFT
    }
}
