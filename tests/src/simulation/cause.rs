//! Why a message met a wrong node.

/// Why a message met a wrong node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// The owner has just claimed it, and the deciding node has not heard of that yet.
    OnItsWay,
    /// No packet passes between the deciding node and the owner.
    Cut,
    /// The owner's daemon is dead, so that its node counts as down, although its proxy goes on.
    OwnerDead,
    /// The same, but its daemon is stopped.
    OwnerStalled,
    /// Both daemons run, but are not linked again yet, or what the owner claimed before is on its way.
    Unlinked,
    /// The owner's daemon was dead or stopped when the owner claimed, and has told nobody yet.
    Untold,
    /// The deciding node has no daemon that would have heard of the claim, and no peer was asked.
    NoDaemon,
    /// The same, but its daemon is stopped.
    Stalled,
    /// The owner's claim is of an epoch that is over: it was made before its daemon saw that the proxy had restarted.
    Stale,
    /// Two nodes have it: it was sent to the other one.
    Contested,
    /// A node without a daemon sent it to another one for its daemon to decide, and that had none either.
    RelayedInVain,
    /// The deciding node's daemon was stopped while it held it, and let it go before it read what its peers said.
    HeldTooLong,
    /// The deciding node's ring buffer for punted packets was full.
    Overflowed,
    /// None of these.
    Unknown,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::OnItsWay,
        Self::Cut,
        Self::OwnerDead,
        Self::OwnerStalled,
        Self::Unlinked,
        Self::Untold,
        Self::NoDaemon,
        Self::Stalled,
        Self::Stale,
        Self::Contested,
        Self::RelayedInVain,
        Self::HeldTooLong,
        Self::Overflowed,
        Self::Unknown,
    ];

    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OnItsWay => "owner's claim on its way",
            Self::Cut => "cut off from the owner",
            Self::OwnerDead => "owner's daemon dead",
            Self::OwnerStalled => "owner's daemon stalled",
            Self::Unlinked => "not linked with the owner again yet",
            Self::Untold => "owner's daemon was away when it claimed",
            Self::NoDaemon => "no daemon here, peers not asked",
            Self::Stalled => "daemon here stalled",
            Self::Stale => "owner's claim of an epoch that is over",
            Self::Contested => "two nodes have it",
            Self::RelayedInVain => "relayed to a node without a daemon",
            Self::HeldTooLong => "held over a stall of the daemon here",
            Self::Overflowed => "too many punts",
            Self::Unknown => "unknown",
        }
    }
}
