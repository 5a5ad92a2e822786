//! Newtypes for the numbers that have a meaning of their own.

/// The number of an edge host in its cluster, as in its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct NodeId(u16);

impl NodeId {
    /// The largest node id: a claim entry has ten bits for it.
    pub const MAX: u16 = 1023;

    /// A node id, or `None` outside 1..=1023. Zero means "nobody" in every map.
    #[must_use]
    pub const fn new(id: u16) -> Option<Self> {
        if id == 0 || id > Self::MAX { None } else { Some(Self(id)) }
    }

    /// The number itself, 1..=1023.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// One run of one service's proxy, by four bits; a claim counts while its epoch is among its owner's live ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Epoch(u8);

impl Epoch {
    /// The lowest four bits of `number`: a claim entry has room for no more.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self((number & 0xf) as u8)
    }

    /// The number itself, 0..=15.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// The live epochs of one node: a claim of any other epoch of that node is ineffective.
///
/// Sixteen bits, one for each [`Epoch`]: several proxies of a node each have an epoch of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Epochs(u16);

impl Epochs {
    /// No epoch is live.
    pub const EMPTY: Self = Self(0);

    /// From one bit for each epoch, the lowest for epoch 0.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// One bit for each epoch, the lowest for epoch 0.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether `epoch` is live.
    #[must_use]
    #[inline(always)] // two instructions
    pub const fn contains(self, epoch: Epoch) -> bool {
        self.0 >> epoch.number() & 1 != 0
    }

    /// These and `epoch`.
    #[must_use]
    pub const fn with(self, epoch: Epoch) -> Self {
        Self(self.0 | 1 << epoch.number())
    }

    /// These but for `epoch`.
    #[must_use]
    pub const fn without(self, epoch: Epoch) -> Self {
        Self(self.0 & !(1 << epoch.number()))
    }

    /// The live ones, in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Epoch> {
        (0..16).map(Epoch::new).filter(move |epoch| self.contains(*epoch))
    }
}

impl FromIterator<Epoch> for Epochs {
    fn from_iter<I: IntoIterator<Item = Epoch>>(epochs: I) -> Self {
        epochs.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// `CLOCK_MONOTONIC` in units of 2^32 ns (4.295 s), modulo 2^16 (78 h): the coarse clock of claim lifetimes.
///
/// Kernel and daemon read the same clock, so a tick means the same to both of one host and nothing to another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Tick(u16);

impl Tick {
    /// The length of one tick in nanoseconds.
    const NANOSECONDS: u64 = 1 << 32;
    /// The longest lifetime in ticks (39 h): half the circle, beyond which past and future swap.
    pub const LONGEST: u16 = 0x7fff;

    /// The tick of a `CLOCK_MONOTONIC` time in nanoseconds.
    #[must_use]
    pub const fn at(monotonic_ns: u64) -> Self {
        Self((monotonic_ns / Self::NANOSECONDS) as u16)
    }

    /// From its number.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The tick `lifetime` ticks later.
    #[must_use]
    pub const fn after(self, lifetime: u16) -> Self {
        Self(self.0.wrapping_add(lifetime))
    }

    /// Ticks from `now` to this one; 0 when it has passed.
    #[must_use]
    pub const fn remaining(self, now: Self) -> u16 {
        let ahead = self.0.wrapping_sub(now.0);
        if ahead > Self::LONGEST { 0 } else { ahead }
    }

    /// The ticks that cover `milliseconds`, rounded up, at least 1, at most [`Self::LONGEST`].
    #[must_use]
    pub const fn covering_ms(milliseconds: u64) -> u16 {
        // One more than the quotient: the current tick is already partly over.
        let ticks = milliseconds.saturating_mul(1_000_000) / Self::NANOSECONDS + 2;
        if ticks > Self::LONGEST as u64 { Self::LONGEST } else { ticks as u16 }
    }

    /// Milliseconds in `ticks`, rounded down.
    #[must_use]
    pub const fn milliseconds(ticks: u16) -> u64 {
        ticks as u64 * Self::NANOSECONDS / 1_000_000
    }
}

/// An Ethernet protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// An IEEE 802.1Q tag follows.
    pub const VLAN: Self = Self(0x8100);
    /// An IEEE 802.1ad (outer) tag follows.
    pub const VLAN_OUTER: Self = Self(0x88a8);
}

/// An IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// UDP.
    pub const UDP: Self = Self(17);
    /// The IPv6 fragment header (RFC 8200 §4.5).
    pub const FRAGMENT: Self = Self(44);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_epochs_has_what_was_put_in_and_not_taken_out() {
        let epochs = Epochs::EMPTY.with(Epoch::new(0)).with(Epoch::new(15)).with(Epoch::new(7)).without(Epoch::new(7));
        assert_eq!(epochs.bits(), 0x8001);
        let live: [Option<Epoch>; 3] = {
            let mut all = epochs.iter();
            [all.next(), all.next(), all.next()]
        };
        assert_eq!(live, [Some(Epoch::new(0)), Some(Epoch::new(15)), None]);
        assert!((0..16).map(Epoch::new).all(|epoch| epochs.contains(epoch) == epochs.iter().any(|live| live == epoch)));
        assert_eq!(epochs.iter().collect::<Epochs>(), epochs);
    }
}
