//! A claim in 32 bytes: there may be millions.

use forwarder_common::ids::{Epoch, NodeId};
use forwarder_common::rest::{Class, Purpose};

use super::entry::{Entry, LATEST_UNIX_US, Version};

const OWNER_BITS: u32 = 10;
const EPOCH_BITS: u32 = 4;
/// Bits that share a word with an end: owner, epoch and a spare one.
const END_SHIFT: u32 = OWNER_BITS + EPOCH_BITS + 1;
/// The latest end that there is room for: 17 years of a host's monotonic clock.
const LATEST_END_US: u64 = u64::MAX >> END_SHIFT;
const GENERATION_BITS: u32 = 8;
const PURPOSE_BITS: u32 = 4;
/// Bits that share a word with a claim's time: its purpose and the generation of its version.
const TIME_SHIFT: u32 = GENERATION_BITS + PURPOSE_BITS;
/// Bits for how far the end that the kernel was told is from the present one: half a second each way.
const TOLD_BITS: u32 = 20;
const TOLD_MOST: i64 = (1 << (TOLD_BITS - 1)) - 1;
/// The highest number that there is room for: five years at 100,000 claims a second.
const LAST_NUMBER: u64 = u64::MAX >> TOLD_BITS;

/// An [`Entry`] with its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) key: u64,
    /// Claim time, purpose, generation.
    time: u64,
    /// Number, told end.
    number: u64,
    /// End, owner, epoch.
    end: u64,
}

impl Held {
    pub(super) fn new(key: u64, entry: &Entry) -> Self {
        let (owner, epoch) = (u64::from(entry.owner.number()), u64::from(entry.epoch.number()));
        let (purpose, generation) = (u64::from(entry.purpose.code()), u64::from(entry.version.generation));
        let told = entry.told_us.cast_signed().saturating_sub(entry.expires_us.cast_signed());
        let told = told.clamp(-TOLD_MOST, TOLD_MOST).cast_unsigned() & ((1 << TOLD_BITS) - 1);
        Self {
            key,
            time: entry.claimed_at_unix_us.min(LATEST_UNIX_US) << TIME_SHIFT | purpose << GENERATION_BITS | generation,
            number: entry.version.number.min(LAST_NUMBER) << TOLD_BITS | told,
            end: entry.expires_us.min(LATEST_END_US) << END_SHIFT | owner << EPOCH_BITS | epoch,
        }
    }

    /// The entry; `None` is one without an owner, which is never put in.
    pub(super) fn entry(&self) -> Option<Entry> {
        let told = (self.number << (64 - TOLD_BITS)).cast_signed() >> (64 - TOLD_BITS);
        Some(Entry {
            owner: NodeId::new(self.owner())?,
            epoch: self.epoch(),
            purpose: Purpose::decode((self.time >> GENERATION_BITS) as u8),
            claimed_at_unix_us: self.time >> TIME_SHIFT,
            expires_us: self.expires_us(),
            told_us: self.expires_us().saturating_add_signed(told),
            version: Version { generation: self.time as u8, number: self.number >> TOLD_BITS },
        })
    }

    pub(super) const fn owner(&self) -> u16 {
        (self.end >> EPOCH_BITS) as u16 & ((1 << OWNER_BITS) - 1)
    }

    pub(super) const fn epoch(&self) -> Epoch {
        Epoch::new(self.end)
    }

    pub(super) const fn class(&self) -> Class {
        Purpose::decode((self.time >> GENERATION_BITS) as u8).class()
    }

    pub(super) const fn expires_us(&self) -> u64 {
        self.end >> END_SHIFT
    }
}
