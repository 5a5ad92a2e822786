//! One claim, and what becomes of it when its owner says more of it.

use std::cmp::Ordering;

use forwarder_common::{
    ids::{Epoch, NodeId},
    rest::{KeyKind, Purpose},
};

/// The latest time of a claim that is told apart from others, in microseconds of Unix time (the year 2112): there are
/// 52 bits for it.
pub const LATEST_UNIX_US: u64 = (1 << 52) - 1;

/// Which of an owner's versions of a claim it is: an owner says when its claim ends, and later that it ends earlier or
/// later than that.
///
/// All that an incarnation of its daemon says has a number, and what it says later a higher one. The next incarnation
/// begins anew, so all that it says is later than all that the one before said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Which incarnation said it, in the receiver's count, modulo 256.
    pub generation: u8,
    /// Its number in that incarnation's log, below 2^44.
    pub number: u64,
}

impl Version {
    /// Of this version, which arrives, and one that is `held`: which was said later.
    pub(crate) fn order(self, held: Self) -> Ordering {
        if self.generation != held.generation { Ordering::Greater } else { self.number.cmp(&held.number) }
    }
}

/// One claim as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is.
    pub owner: NodeId,
    /// The owner's epoch when it was made.
    pub epoch: Epoch,
    /// What it was made for.
    pub purpose: Purpose,
    /// When it was made: Unix microseconds of the owner's clock, however wrong that is, up to [`LATEST_UNIX_US`].
    pub claimed_at_unix_us: u64,
    /// When it ends: microseconds of this node's monotonic clock.
    pub expires_us: u64,
    /// The end that the kernel's map has been told, if it is a peer's; when it is more than half a second from
    /// [`Self::expires_us`], only that it is.
    pub told_us: u64,
    /// Which of its owner's versions it is.
    pub version: Version,
}

impl Entry {
    /// What is known of a claim after another version of it has arrived: the later one counts (last writer wins), of
    /// two copies of one version that which lets it last longer. The time belongs to the version: an owner moves it
    /// when it says that its claim was made before all others.
    #[must_use]
    pub fn after(self, arrives: Self) -> Self {
        match arrives.version.order(self.version) {
            Ordering::Greater => Self { told_us: self.told_us, ..arrives },
            Ordering::Equal => Self { expires_us: arrives.expires_us.max(self.expires_us), ..self },
            Ordering::Less => self,
        }
    }

    /// Which of two claims was made first: the earlier one by its owner's word, then that of the lower id. One that a
    /// reply has made comes after one that a request has made, whatever the clocks say.
    #[must_use]
    pub fn is_before(&self, other: &Self) -> bool {
        let order = |claim: &Self| (claim.is_of_a_reply(), claim.claimed_at_unix_us, claim.owner);
        order(self) < order(other)
    }

    /// A reply has made it, and so perhaps of a transaction that another node owns ([`KeyKind::Answered`]).
    #[must_use]
    pub const fn is_of_a_reply(&self) -> bool {
        matches!(self.purpose.kind(), Some(KeyKind::Answered))
    }
}
