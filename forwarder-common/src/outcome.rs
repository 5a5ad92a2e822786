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
    /// IPv6 extension headers before a service's UDP header are not read; passed.
    ExtensionHeader = 4, "extension_header", Ingress;
    /// This node owns the transaction.
    LocalOwner = 5, "local_owner", Ingress;
    /// A request that nobody owns: this node may become its owner.
    LocalNew = 6, "local_new", Ingress;
    /// No peer is up, so every packet is local, fragments included.
    LocalAlone = 7, "local_alone", Ingress;
    /// Encapsulated and sent to the owner.
    Forwarded = 8, "forwarded", Ingress;
    /// An IP fragment for a service's address, sent to the node that reassembles its datagram.
    ForwardedFragment = 9, "forwarded_fragment", Ingress;
    /// A request that nobody owns while this node takes no new ones: encapsulated and sent to a healthy peer.
    Diverted = 10, "diverted", Ingress;
    /// What only a daemon could finish, where none lives: encapsulated and sent to a healthy peer for its daemon's verdict.
    Relayed = 11, "relayed", Ingress;
    /// A response whose transaction nobody is known to own; passed.
    UnknownResponse = 12, "unknown_response", Ingress;
    /// A response in a transaction that is owned, under a branch that nobody is known to have sent, and no daemon to ask for it;
    /// passed where its transaction's owner cannot be told either.
    UnknownBranch = 13, "unknown_branch", Ingress;
    /// A CANCEL whose transaction nobody is known to own; passed.
    UnknownCancel = 14, "unknown_cancel", Ingress;
    /// An ACK that nobody is known to own; passed.
    UnknownAck = 15, "unknown_ack", Ingress;
    /// Text in which the fast path's bounds end before the headers that make the key; passed.
    UnreadBounds = 16, "unread_bounds", Ingress;
    /// Text in a form that the fast path does not read (folds, quotes, odd blanks), SIP or not; passed.
    UnreadForm = 17, "unread_form", Ingress;
    /// Text without one of the headers that make the key, or cut off, SIP or not; passed.
    UnreadIncomplete = 18, "unread_incomplete", Ingress;
    /// For another node, but too big with the tunnel header; passed.
    TooBig = 19, "too_big", Ingress;
    /// For another node, but its next hop is not known; passed.
    Unresolved = 20, "unresolved", Ingress;
    /// Encapsulation failed in the kernel; passed.
    EncapFailed = 21, "encap_failed", Ingress;
    /// An IP fragment for a service's address that this node is to reassemble, with no daemon to do so; passed.
    Fragment = 22, "fragment", Ingress;
    /// A response whose transaction nobody is known to own; punted to the daemon, which asks.
    PuntedUnknownResponse = 23, "punted_unknown_response", Ingress;
    /// Such a response, handed to the daemon, which asks for the branch.
    PuntedUnknownBranch = 24, "punted_unknown_branch", Ingress;
    /// A CANCEL whose transaction nobody is known to own; punted to the daemon, which asks.
    PuntedUnknownCancel = 25, "punted_unknown_cancel", Ingress;
    /// An ACK whose transaction nobody is known to own; punted to the daemon, which asks.
    PuntedUnknownAck = 26, "punted_unknown_ack", Ingress;
    /// SIP that the fast path cannot read; punted to the daemon, which reads the full grammar.
    PuntedUnread = 27, "punted_unread", Ingress;
    /// For another node, but too big with the tunnel header; punted to the daemon, whose kernel fragments it.
    PuntedTooBig = 28, "punted_too_big", Ingress;
    /// For another node whose next hop is not known; punted to the daemon, whose kernel finds it.
    PuntedUnresolved = 29, "punted_unresolved", Ingress;
    /// An IP fragment for a service's address that this node is to reassemble; punted to the daemon.
    PuntedFragment = 30, "punted_fragment", Ingress;
    /// To be punted, but the daemon's buffer is full or its share per second used up; passed.
    PuntOverflow = 31, "punt_overflow", Ingress;
    /// An IP fragment to be reassembled here, but the daemon's buffer is full or its share used up; dropped, for the others of its
    /// datagram are not with this host's kernel, whose memory for fragments it would only fill.
    FragmentOverflow = 32, "fragment_overflow", Ingress;
    /// From a peer, decapsulated, for the local proxy.
    Decapsulated = 33, "decapsulated", Decap;
    /// A tunnel packet of this node to itself: how its daemon injects behind generic XDP. The slow path counts what it was.
    DecapInjected = 34, "decap_injected", Decap;
    /// From a peer where no daemon lives, and none is here either; decapsulated, for the local proxy.
    DecapRelayed = 35, "decap_relayed", Decap;
    /// An IP fragment from a peer, to be reassembled here by a daemon that is not there; passed as it is.
    DecapFragment = 36, "decap_fragment", Decap;
    /// From a peer where no daemon lives, decapsulated and punted to the daemon for its verdict.
    DecapPuntedRelayed = 37, "decap_punted_relayed", Decap;
    /// An IP fragment from a peer, to be reassembled here; punted to the daemon.
    DecapPuntedFragment = 38, "decap_punted_fragment", Decap;
    /// To the tunnel port, but no well-formed tunnel packet of this cluster; passed as it is.
    DecapMalformed = 39, "decap_malformed", Decap;
    /// A tunnel packet from an address that is not the named peer's; passed as it is.
    DecapUnknownPeer = 40, "decap_unknown_peer", Decap;
    /// A tunnel packet whose tag is wrong; passed as it is.
    DecapBadTag = 41, "decap_bad_tag", Decap;
    /// A tunnel packet whose inner destination is no service; passed as it is.
    DecapNotService = 42, "decap_not_service", Decap;
    /// Decapsulation failed in the kernel; passed as it is.
    DecapFailed = 43, "decap_failed", Decap;
    /// Sent by this host, no SIP over UDP.
    EgressOther = 44, "egress_other", Egress;
    /// Sent by the proxy: the first message of a transaction, now claimed.
    EgressClaimed = 45, "egress_claimed", Egress;
    /// Sent by the proxy in a transaction that this node owns.
    EgressOwner = 46, "egress_owner", Egress;
    /// Sent by the proxy, an ACK or CANCEL: claims nothing.
    EgressNoClaim = 47, "egress_no_claim", Egress;
    /// Sent by the proxy in a transaction that another live node owns.
    EgressForeign = 48, "egress_foreign", Egress;
    /// Sent by the proxy in a form that the fast path does not read; a copy went to the daemon, which claims it.
    EgressPunted = 49, "egress_punted", Egress;
    /// Sent by the proxy, SIP that the fast path does not read, and the daemon had no room for a copy: not claimed.
    EgressUnread = 50, "egress_unread", Egress;
    /// Sent by the proxy as an IP fragment or otherwise not whole: not claimed.
    EgressFragment = 51, "egress_fragment", Egress;
    /// The claim table or the event buffer had no room: the claim is not known everywhere.
    EgressLost = 52, "egress_lost", Egress;
    /// Injected locally by the daemon: the verdict of the slow path was local.
    SlowLocal = 53, "slow_local", Slow;
    /// Sent to its owner through the daemon's socket.
    SlowForwarded = 54, "slow_forwarded", Slow;
    /// A request that nobody owns while this node takes no new ones; sent to a healthy peer.
    SlowDiverted = 55, "slow_diverted", Slow;
    /// Arrived through the daemon's socket, from a peer, and injected locally.
    SlowReceived = 56, "slow_received", Slow;
    /// No SIP after all, once it was whole; injected locally.
    SlowNotSip = 57, "slow_not_sip", Slow;
    /// Held until a peer says that it owns the transaction; it ends in one of the outcomes around it.
    SlowHeld = 58, "slow_held", Slow;
    /// Held, and let go locally because nobody owns it or nobody answered in time.
    SlowReleased = 59, "slow_released", Slow;
    /// Not held because the bound on held packets or bytes was reached; injected locally.
    SlowHoldOverflow = 60, "slow_hold_overflow", Slow;
    /// A fragment that waits for the others of its datagram.
    SlowReassembling = 61, "slow_reassembling", Slow;
    /// A datagram made whole from fragments; it ends in one of the outcomes around it.
    SlowReassembled = 62, "slow_reassembled", Slow;
    /// Fragments given up: too old, too many, overlapping or contradictory (RFC 5722).
    SlowDroppedFragment = 63, "slow_dropped_fragment", Slow;
    /// A packet through the daemon's socket that is no well-formed tunnel packet of a peer for a service, or a punted
    /// frame without a whole IP packet; dropped.
    SlowRefused = 64, "slow_refused", Slow;
    /// The kernel refused to inject or send a packet; it is lost.
    SlowFailed = 65, "slow_failed", Slow;
}

impl Outcome {
    /// The outcome when a packet that would end here is handed to the daemon; `None` for those that are not.
    #[inline(always)] // a few compares
    #[must_use]
    pub const fn punted(self) -> Option<Self> {
        match self {
            Self::UnknownResponse => Some(Self::PuntedUnknownResponse),
            Self::UnknownCancel => Some(Self::PuntedUnknownCancel),
            Self::UnknownAck => Some(Self::PuntedUnknownAck),
            Self::UnknownBranch => Some(Self::PuntedUnknownBranch),
            Self::UnreadBounds | Self::UnreadForm | Self::UnreadIncomplete => Some(Self::PuntedUnread),
            Self::TooBig => Some(Self::PuntedTooBig),
            Self::Unresolved => Some(Self::PuntedUnresolved),
            Self::Fragment => Some(Self::PuntedFragment),
            Self::DecapFragment => Some(Self::DecapPuntedFragment),
            Self::DecapRelayed => Some(Self::DecapPuntedRelayed),
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
