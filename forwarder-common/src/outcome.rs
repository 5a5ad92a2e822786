//! The named ends of every packet's way: each packet is counted in exactly one.
//!
//! The numbers are append-only: the kernel counts by them, the command line, the metrics and the tests name them.

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal, $hook:ident;)+) => {
        /// Where a packet's way ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        #[must_use]
        pub enum Outcome { $($(#[doc = $doc])+ $name = $number,)+ }

        impl Outcome {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name in `status`, metrics and tests.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The hook that counts it.
            #[must_use]
            pub const fn hook(self) -> Hook {
                match self { $(Self::$name => Hook::$hook,)+ }
            }

            /// Its number, an index into the statistics.
            #[must_use]
            pub const fn number(self) -> u32 {
                self as u32
            }
        }
    };
}

/// The places where packets are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// A packet that arrived at a network interface.
    Ingress,
    /// A tunnel packet that arrived at a network interface.
    Decap,
    /// A packet that the host sends.
    Egress,
    /// A packet in the daemon's hands.
    Slow,
}

/// Slots of the statistics map, a power of two: room for outcomes to come.
pub const SLOTS: u32 = 128;

outcomes! {
    /// Not UDP to the address and port of a service.
    NotService = 0, "not_service", Ingress;
    /// To a service, but no SIP: STUN, RTP, anything that does not begin with text.
    NotSip = 1, "not_sip", Ingress;
    /// To a service: CRLF or NUL keep-alive, or an empty datagram (RFC 5626 §3.5.1).
    KeepAlive = 2, "keep_alive", Ingress;
    /// To a service, with lengths that contradict each other.
    Malformed = 3, "malformed", Ingress;
    /// This node owns the transaction.
    LocalOwner = 4, "local_owner", Ingress;
    /// A request that nobody owns: this node may become its owner.
    LocalNew = 5, "local_new", Ingress;
    /// An ACK that nobody is known to own; passed.
    LocalAck = 6, "local_ack", Ingress;
    /// No peer is up, so every packet is local, fragments included.
    LocalAlone = 7, "local_alone", Ingress;
    /// Encapsulated and sent to the owner.
    Forwarded = 8, "forwarded", Ingress;
    /// A response whose transaction nobody is known to own; passed.
    UnknownResponse = 9, "unknown_response", Ingress;
    /// A CANCEL whose transaction nobody is known to own; passed.
    UnknownCancel = 10, "unknown_cancel", Ingress;
    /// An IP fragment for a service's address that this node gathers, with no daemon to gather it; passed.
    Fragment = 11, "fragment", Ingress;
    /// IPv6 extension headers before a service's UDP header are not read; passed.
    ExtensionHeader = 12, "extension_header", Ingress;
    /// Text in which the fast path's bounds end before the headers that make the key; passed.
    PuntBounds = 13, "punt_bounds", Ingress;
    /// Text in a form that the fast path does not read (folds, quotes, odd blanks), SIP or not; passed.
    PuntForm = 14, "punt_form", Ingress;
    /// Text without one of the headers that make the key, or cut off, SIP or not; passed.
    PuntIncomplete = 15, "punt_incomplete", Ingress;
    /// For another node, but too big with the tunnel header; passed.
    TooBig = 16, "too_big", Ingress;
    /// For another node, but its next hop is not known; passed.
    Unresolved = 17, "unresolved", Ingress;
    /// Encapsulation failed in the kernel; passed.
    EncapFailed = 18, "encap_failed", Ingress;
    /// From a peer, decapsulated, for the local proxy.
    Decapsulated = 19, "decapsulated", Decap;
    /// To the tunnel port, but no well-formed tunnel packet of this cluster; passed as it is.
    DecapMalformed = 20, "decap_malformed", Decap;
    /// A tunnel packet from an address that is not the named peer's; passed as it is.
    DecapUnknownPeer = 21, "decap_unknown_peer", Decap;
    /// A tunnel packet whose tag is wrong; passed as it is.
    DecapBadTag = 22, "decap_bad_tag", Decap;
    /// A tunnel packet whose inner destination is no service; passed as it is.
    DecapNotService = 23, "decap_not_service", Decap;
    /// Decapsulation failed in the kernel; passed as it is.
    DecapFailed = 24, "decap_failed", Decap;
    /// Sent by this host, no SIP over UDP.
    EgressOther = 25, "egress_other", Egress;
    /// Sent by the proxy: the first message of a transaction, now claimed.
    EgressClaimed = 26, "egress_claimed", Egress;
    /// Sent by the proxy in a transaction that this node owns.
    EgressOwner = 27, "egress_owner", Egress;
    /// Sent by the proxy, an ACK or CANCEL: claims nothing.
    EgressNoClaim = 28, "egress_no_claim", Egress;
    /// Sent by the proxy in a transaction that another live node owns.
    EgressForeign = 29, "egress_foreign", Egress;
    /// Sent by the proxy, SIP that could not be keyed: not claimed.
    EgressUnkeyable = 30, "egress_unkeyable", Egress;
    /// Sent by the proxy as an IP fragment or otherwise not whole: not claimed.
    EgressFragment = 31, "egress_fragment", Egress;
    /// The claim table or the event buffer had no room: the claim is not known everywhere.
    EgressLost = 32, "egress_lost", Egress;
    /// A response whose transaction nobody is known to own; handed to the daemon, which asks.
    PuntedResponse = 33, "punted_response", Ingress;
    /// A CANCEL whose transaction nobody is known to own; handed to the daemon, which asks.
    PuntedCancel = 34, "punted_cancel", Ingress;
    /// SIP that the fast path cannot read; handed to the daemon, which reads the full grammar.
    PuntedMessage = 35, "punted_message", Ingress;
    /// For another node, but too big with the tunnel header; handed to the daemon, whose kernel fragments it.
    PuntedTooBig = 36, "punted_too_big", Ingress;
    /// For another node whose next hop is not known; handed to the daemon, whose kernel finds it.
    PuntedUnresolved = 37, "punted_unresolved", Ingress;
    /// An IP fragment for a service's address that this node gathers; handed to the daemon.
    PuntedFragment = 38, "punted_fragment", Ingress;
    /// An IP fragment for a service's address, sent to the node that gathers it.
    FragmentForwarded = 39, "fragment_forwarded", Ingress;
    /// An IP fragment from a peer, gathered here; handed to the daemon.
    DecapFragment = 40, "decap_fragment", Decap;
    /// To be handed to the daemon, but its buffer is full or its share per second used up; passed.
    PuntOverflow = 41, "punt_overflow", Ingress;
    /// Injected locally by the daemon: the verdict of the slow path was local.
    SlowLocal = 42, "slow_local", Slow;
    /// Sent to its owner through the daemon's socket.
    SlowForwarded = 43, "slow_forwarded", Slow;
    /// Arrived through the daemon's socket, from a peer, and injected locally.
    SlowReceived = 44, "slow_received", Slow;
    /// Held until a peer says that it owns the transaction; it ends in one of the outcomes around it.
    SlowHeld = 45, "slow_held", Slow;
    /// Held, and let go locally because nobody owns it or nobody answered in time.
    SlowReleased = 46, "slow_released", Slow;
    /// Not held because the bound on held packets or bytes was reached; injected locally.
    SlowHoldOverflow = 47, "slow_hold_overflow", Slow;
    /// A fragment that waits for the others of its datagram.
    SlowGathering = 48, "slow_gathering", Slow;
    /// A datagram made whole from fragments; it ends in one of the outcomes around it.
    SlowGathered = 49, "slow_gathered", Slow;
    /// Fragments given up: too old, too many, overlapping or contradictory (RFC 5722).
    SlowFragmentsDropped = 50, "slow_fragments_dropped", Slow;
    /// A packet through the daemon's socket that is no well-formed tunnel packet of a peer for a service, or a punted
    /// frame without a whole IP packet; dropped.
    SlowRefused = 51, "slow_refused", Slow;
    /// The kernel refused to inject or send a packet; it is lost.
    SlowFailed = 52, "slow_failed", Slow;
    /// No SIP after all, once it was whole; injected locally.
    SlowNotSip = 53, "slow_not_sip", Slow;
    /// An IP fragment from a peer, to be gathered here by a daemon that is not there; passed as it is.
    DecapFragmentPassed = 54, "decap_fragment_passed", Decap;
    /// Sent by the proxy in a form that the fast path does not read; a copy went to the daemon, which claims it.
    EgressPunted = 55, "egress_punted", Egress;
    /// An ACK whose transaction nobody is known to own; handed to the daemon, which asks.
    PuntedAck = 56, "punted_ack", Ingress;
    /// An IP fragment to gather here, but the daemon's buffer is full or its share used up; dropped, for the others of its
    /// datagram are not with this host's kernel, whose memory for fragments it would only fill.
    FragmentOverflow = 57, "fragment_overflow", Ingress;
    /// A tunnel packet of this node to itself: how its daemon injects behind generic XDP. The slow path counts what it was.
    DecapInjected = 58, "decap_injected", Decap;
    /// A request that nobody owns while this node takes no new ones: encapsulated and sent to a healthy peer.
    Diverted = 59, "diverted", Ingress;
    /// What only a daemon could finish, where none lives: encapsulated and sent to a healthy peer for its daemon's verdict.
    HandedOver = 60, "handed_over", Ingress;
    /// From a peer where no daemon lives, decapsulated and handed to the daemon for its verdict.
    DecapHandedOver = 61, "decap_handed_over", Decap;
    /// From a peer where no daemon lives, and none is here either; decapsulated, for the local proxy.
    DecapUnfinished = 62, "decap_unfinished", Decap;
    /// A request that nobody owns while this node takes no new ones; sent to a healthy peer.
    SlowDiverted = 63, "slow_diverted", Slow;
    /// A response in a transaction that is owned, under a branch that nobody is known to have sent, and no daemon to ask for it;
    /// passed where its transaction's owner cannot be told either.
    UnknownBranch = 64, "unknown_branch", Ingress;
    /// Such a response, handed to the daemon, which asks for the branch.
    PuntedBranch = 65, "punted_branch", Ingress;
}

impl Outcome {
    /// The outcome when a packet that would end here is handed to the daemon; `None` for those that are not.
    #[inline(always)] // a few compares
    #[must_use]
    pub const fn punted(self) -> Option<Self> {
        match self {
            Self::UnknownResponse => Some(Self::PuntedResponse),
            Self::UnknownCancel => Some(Self::PuntedCancel),
            Self::LocalAck => Some(Self::PuntedAck),
            Self::UnknownBranch => Some(Self::PuntedBranch),
            Self::PuntBounds | Self::PuntForm | Self::PuntIncomplete => Some(Self::PuntedMessage),
            Self::TooBig => Some(Self::PuntedTooBig),
            Self::Unresolved => Some(Self::PuntedUnresolved),
            Self::Fragment => Some(Self::PuntedFragment),
            Self::DecapFragmentPassed => Some(Self::DecapFragment),
            Self::DecapUnfinished => Some(Self::DecapHandedOver),
            _ => None,
        }
    }

    /// The outcome with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_fit_the_statistics() {
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(outcome.number() as usize, index, "{}", outcome.name());
            assert_eq!(Outcome::from_number(outcome.number()), Some(*outcome));
        }
        assert!(Outcome::ALL.len() <= SLOTS as usize);
        assert_eq!(Outcome::from_number(SLOTS), None);
    }
}
