//! The named ends of every packet's way, one row each: number, text, hook, action, and what it becomes when punted.
//!
//! All else that tells outcomes apart derives from these rows: the programs' actions, the daemon's ledger, status,
//! metrics and tests. A plain name says what the packet is or what was done with it; `punted_` says that it was given
//! to this host's daemon. Numbers are append-only within a version of the maps (`tests/abi.rs`).

use crate::coded;

macro_rules! outcomes {
    (@punted) => { None };
    (@punted $punted:ident) => { Some(Outcome::$punted) };
    ($(
        $(#[doc = $doc:literal])+
        $name:ident = $number:literal, $text:literal, $hook:ident, $action:ident $(($how:ident))? $(=> $punted:ident)?;
    )+) => {
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
            #[inline(always)] // mostly known where it is asked for
            #[must_use]
            pub const fn hook(self) -> Hook {
                match self { $(Self::$name => Hook::$hook,)+ }
            }

            /// What becomes of the packet.
            #[inline(always)] // as above
            #[must_use]
            pub const fn action(self) -> Action {
                use Action::{Dropped, Pass, Punted, Sent, Slow};
                use Account::{Again, Ended, Made, Waits};
                use Punt::{Asks, Reads, Reassembles};
                match self { $(Self::$name => $action $(($how))?,)+ }
            }

            /// The outcome when a packet that would end here is punted; `None` for those that are not.
            #[inline(always)] // a few compares
            #[must_use]
            pub const fn punted(self) -> Option<Self> {
                match self { $(Self::$name => outcomes!(@punted $($punted)?),)+ }
            }

            /// The outcome with this number.
            #[inline(always)] // numbers are dense: one compare
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)+ _ => None }
            }

            /// Its number, an index into the statistics.
            #[inline(always)] // nothing
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

/// What becomes of a packet at the end of its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It goes on: into this host's stack, or out of it.
    Pass,
    /// It was encapsulated and goes to another node.
    Sent,
    /// The daemon has it, and it is dropped here.
    Punted(Punt),
    /// It is dropped.
    Dropped,
    /// It is in the daemon's hands.
    Slow(Account),
}

coded! {
    /// What a punted packet is punted for.
    #[derive(Hash)]
    pub enum Punt {
        /// Only its owner could use it, and nobody is known to be that: the daemon asks the peers.
        Asks = 1,
        /// The daemon reads what a program cannot read, or sends what a program cannot send.
        Reads = 2,
        /// The daemon reassembles its datagram.
        Reassembles = 3,
    }
}

impl Punt {
    /// The outcome where the daemon has no room or no time for the packet.
    #[inline(always)] // a compare
    pub const fn overflow(self) -> Outcome {
        match self {
            Self::Asks | Self::Reads => Outcome::PuntOverflow,
            Self::Reassembles => Outcome::FragmentOverflow,
        }
    }
}

/// How an outcome of the slow path enters its ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// The packet's way ends.
    Ended,
    /// The packet begins to wait; another outcome follows.
    Waits,
    /// A packet was made of others; another outcome follows.
    Made,
    /// The packet was counted before as what it was to be.
    Again,
}

/// Slots of the statistics map, a power of two: room for outcomes to come.
pub const SLOTS: u32 = 128;

outcomes! {
    /// Not UDP to the address and port of a service.
    NotService = 0, "not_service", Ingress, Pass;
    /// To a service, but no SIP: STUN, RTP, anything that does not begin with text.
    NotSip = 1, "not_sip", Ingress, Pass;
    /// To a service: CRLF or NUL keep-alive, or an empty datagram (RFC 5626 §3.5.1).
    KeepAlive = 2, "keep_alive", Ingress, Pass;
    /// To a service, with lengths that contradict each other.
    Malformed = 3, "malformed", Ingress, Pass;
    /// To a service's address, with extension headers of IPv6 or an authentication header before its payload, and no
    /// daemon reads what is behind; passed.
    ExtensionHeader = 4, "extension_header", Ingress, Pass => PuntedExtensionHeader;
    /// This node owns the transaction.
    LocalOwner = 5, "local_owner", Ingress, Pass;
    /// A request that nobody owns: this node may become its owner.
    LocalNew = 6, "local_new", Ingress, Pass;
    /// No peer is up, so every packet is local, fragments included.
    LocalAlone = 7, "local_alone", Ingress, Pass;
    /// Encapsulated and sent to the owner.
    Forwarded = 8, "forwarded", Ingress, Sent;
    /// An IP fragment for a service's address, sent to the node that reassembles its datagram.
    ForwardedFragment = 9, "forwarded_fragment", Ingress, Sent;
    /// A request that nobody owns while this node takes no new ones: encapsulated and sent to a healthy peer.
    Diverted = 10, "diverted", Ingress, Sent;
    /// What only a daemon could finish, where none lives: encapsulated and sent to a healthy peer for its daemon's
    /// verdict.
    Relayed = 11, "relayed", Ingress, Sent;
    /// A response whose transaction nobody is known to own; passed.
    UnknownResponse = 12, "unknown_response", Ingress, Pass => PuntedUnknownResponse;
    /// A response in a transaction that is owned, under a branch that nobody is known to have sent, and no daemon to
    /// ask for it; passed where its transaction's owner cannot be told either.
    UnknownBranch = 13, "unknown_branch", Ingress, Pass => PuntedUnknownBranch;
    /// A CANCEL whose transaction nobody is known to own; passed.
    UnknownCancel = 14, "unknown_cancel", Ingress, Pass => PuntedUnknownCancel;
    /// An ACK that nobody is known to own; passed.
    UnknownAck = 15, "unknown_ack", Ingress, Pass => PuntedUnknownAck;
    /// Text in which the fast path's bounds end before the headers that make the key; passed.
    UnreadBounds = 16, "unread_bounds", Ingress, Pass => PuntedUnread;
    /// Text in a form that the fast path does not read (folds, quotes, odd blanks), SIP or not; passed.
    UnreadForm = 17, "unread_form", Ingress, Pass => PuntedUnread;
    /// Text without one of the headers that make the key, or cut off, SIP or not; passed.
    UnreadIncomplete = 18, "unread_incomplete", Ingress, Pass => PuntedUnread;
    /// For another node, but too big with the tunnel header; passed.
    TooBig = 19, "too_big", Ingress, Pass => PuntedTooBig;
    /// For another node, but its next hop is not known; passed.
    Unresolved = 20, "unresolved", Ingress, Pass => PuntedUnresolved;
    /// Encapsulation failed in the kernel; passed.
    EncapFailed = 21, "encap_failed", Ingress, Pass;
    /// An IP fragment for a service's address that this node is to reassemble, with no daemon to do so; passed.
    Fragment = 22, "fragment", Ingress, Pass => PuntedFragment;
    /// A response whose transaction nobody is known to own; punted to the daemon, which asks.
    PuntedUnknownResponse = 23, "punted_unknown_response", Ingress, Punted(Asks);
    /// Such a response, punted to the daemon, which asks for the branch.
    PuntedUnknownBranch = 24, "punted_unknown_branch", Ingress, Punted(Asks);
    /// A CANCEL whose transaction nobody is known to own; punted to the daemon, which asks.
    PuntedUnknownCancel = 25, "punted_unknown_cancel", Ingress, Punted(Asks);
    /// An ACK whose transaction nobody is known to own; punted to the daemon, which asks.
    PuntedUnknownAck = 26, "punted_unknown_ack", Ingress, Punted(Asks);
    /// SIP that the fast path cannot read; punted to the daemon, which reads the full grammar.
    PuntedUnread = 27, "punted_unread", Ingress, Punted(Reads);
    /// For another node, but too big with the tunnel header; punted to the daemon, whose kernel fragments it.
    PuntedTooBig = 28, "punted_too_big", Ingress, Punted(Reads);
    /// For another node whose next hop is not known; punted to the daemon, whose kernel finds it.
    PuntedUnresolved = 29, "punted_unresolved", Ingress, Punted(Reads);
    /// An IP fragment for a service's address that this node is to reassemble; punted to the daemon.
    PuntedFragment = 30, "punted_fragment", Ingress, Punted(Reassembles);
    /// To be punted, but the daemon's buffer is full or its share per second used up; passed.
    PuntOverflow = 31, "punt_overflow", Ingress, Pass;
    /// An IP fragment to be reassembled here, but the daemon's buffer is full or its share used up; dropped, for the
    /// others of its datagram are not with this host's kernel, whose memory for fragments it would only fill.
    FragmentOverflow = 32, "fragment_overflow", Ingress, Dropped;
    /// From a peer, decapsulated, for the local proxy.
    Decapsulated = 33, "decapsulated", Decap, Pass;
    /// A tunnel packet of this node to itself: how its daemon injects behind generic XDP. The slow path counts what it
    /// was.
    DecapInjected = 34, "decap_injected", Decap, Pass;
    /// From a peer where no daemon lives, and none is here either; decapsulated, for the local proxy.
    DecapRelayed = 35, "decap_relayed", Decap, Pass => DecapPuntedRelayed;
    /// An IP fragment from a peer, to be reassembled here by a daemon that is not there; passed as it is.
    DecapFragment = 36, "decap_fragment", Decap, Pass => DecapPuntedFragment;
    /// From a peer where no daemon lives, decapsulated and punted to the daemon for its verdict.
    DecapPuntedRelayed = 37, "decap_punted_relayed", Decap, Punted(Asks);
    /// An IP fragment from a peer, to be reassembled here; punted to the daemon.
    DecapPuntedFragment = 38, "decap_punted_fragment", Decap, Punted(Reassembles);
    /// To the tunnel port, but no well-formed tunnel packet of this cluster; passed as it is.
    DecapMalformed = 39, "decap_malformed", Decap, Pass;
    /// A tunnel packet from an address that is not the named peer's; passed as it is.
    DecapUnknownPeer = 40, "decap_unknown_peer", Decap, Pass;
    /// A tunnel packet whose tag is wrong; passed as it is.
    DecapBadTag = 41, "decap_bad_tag", Decap, Pass;
    /// A tunnel packet whose inner destination is no service; passed as it is.
    DecapNotService = 42, "decap_not_service", Decap, Pass;
    /// Decapsulation failed in the kernel; passed as it is.
    DecapFailed = 43, "decap_failed", Decap, Pass;
    /// Sent by this host, no SIP over UDP.
    EgressOther = 44, "egress_other", Egress, Pass;
    /// Sent by the proxy: the first message of a transaction, now claimed.
    EgressClaimed = 45, "egress_claimed", Egress, Pass;
    /// Sent by the proxy in a transaction that this node owns.
    EgressOwner = 46, "egress_owner", Egress, Pass;
    /// Sent by the proxy, an ACK or CANCEL: claims nothing.
    EgressNoClaim = 47, "egress_no_claim", Egress, Pass;
    /// Sent by the proxy in a transaction that another live node owns.
    EgressForeign = 48, "egress_foreign", Egress, Pass;
    /// Sent by the proxy in a form that the fast path does not read; a copy went to the daemon, which claims it.
    EgressPunted = 49, "egress_punted", Egress, Pass;
    /// Sent by the proxy, SIP that the fast path does not read and of which the daemon could not be given a copy: not
    /// claimed.
    EgressUnread = 50, "egress_unread", Egress, Pass;
    /// Sent by the proxy as an IP fragment or otherwise not whole: not claimed.
    EgressFragment = 51, "egress_fragment", Egress, Pass;
    /// The event buffer had no room, or others wrote the claim's place again and again: the claim is not known
    /// everywhere.
    EgressLost = 52, "egress_lost", Egress, Pass;
    /// Injected locally by the daemon: the verdict of the slow path was local.
    SlowLocal = 53, "slow_local", Slow, Slow(Ended);
    /// Sent to its owner through the daemon's socket.
    SlowForwarded = 54, "slow_forwarded", Slow, Slow(Ended);
    /// A request that nobody owns while this node takes no new ones; sent to a healthy peer.
    SlowDiverted = 55, "slow_diverted", Slow, Slow(Ended);
    /// Arrived through the daemon's socket, from a peer, and injected locally.
    SlowReceived = 56, "slow_received", Slow, Slow(Ended);
    /// No SIP after all, once it was whole; injected locally.
    SlowNotSip = 57, "slow_not_sip", Slow, Slow(Ended);
    /// Held until a peer says that it owns the transaction; it ends in one of the outcomes around it.
    SlowHeld = 58, "slow_held", Slow, Slow(Waits);
    /// Held, and let go locally because nobody owns it or nobody answered in time.
    SlowReleased = 59, "slow_released", Slow, Slow(Ended);
    /// Not held because the bound on held packets or bytes was reached; injected locally.
    SlowHoldOverflow = 60, "slow_hold_overflow", Slow, Slow(Ended);
    /// A fragment that waits for the others of its datagram.
    SlowReassembling = 61, "slow_reassembling", Slow, Slow(Waits);
    /// A datagram made whole from fragments; it ends in one of the outcomes around it.
    SlowReassembled = 62, "slow_reassembled", Slow, Slow(Made);
    /// Fragments given up: too old, too many, overlapping or contradictory (RFC 5722).
    SlowDroppedFragment = 63, "slow_dropped_fragment", Slow, Slow(Ended);
    /// A packet through the daemon's socket that is no well-formed tunnel packet of a peer for a service, or a punted
    /// frame without a whole IP packet; dropped.
    SlowRefused = 64, "slow_refused", Slow, Slow(Ended);
    /// The kernel refused to inject or send a packet; it is lost.
    SlowFailed = 65, "slow_failed", Slow, Slow(Again);
    /// A tunnel packet of a peer that was sent long ago, or in the future: a replay, or the peer's clock has jumped and
    /// is asked for again; passed as it is.
    DecapStale = 66, "decap_stale", Decap, Pass;
    /// A question of a peer's daemon, answered in its own packet.
    DecapAnswered = 67, "decap_answered", Decap, Sent;
    /// A question of a peer's daemon for which no next hop is known; passed to the daemon, which answers.
    DecapAsked = 68, "decap_asked", Decap, Pass;
    /// An answer to this node's daemon; passed to its socket.
    DecapAnswer = 69, "decap_answer", Decap, Pass;
    /// Of a peer's transaction, but the peer does not have the service that it is for: served where it landed.
    LocalUnserved = 70, "local_unserved", Ingress, Pass;
    /// Sent by this host, SIP from an address and port that is no service's and none of its sources: claims nothing.
    EgressNotService = 71, "egress_not_service", Egress, Pass;
    /// For another node, but more of one transaction than is sent; passed.
    LocalOverKey = 72, "local_over_key", Ingress, Pass;
    /// For another node, but more than one node is sent; passed.
    LocalOverPeer = 73, "local_over_peer", Ingress, Pass;
    /// An IP fragment for the node that reassembles its datagram, but more than one node is sent, or of one source;
    /// dropped, for nobody has the others of its datagram.
    FragmentOverPeer = 74, "fragment_over_peer", Ingress, Dropped;
    /// To another node, but more of one transaction than is sent; injected locally.
    SlowOverKey = 75, "slow_over_key", Slow, Slow(Ended);
    /// To another node, but more than one node is sent; injected locally, and a fragment dropped.
    SlowOverPeer = 76, "slow_over_peer", Slow, Slow(Ended);
    /// As `extension_header`: the daemon reads what is behind.
    PuntedExtensionHeader = 77, "punted_extension_header", Ingress, Punted(Reads);
    /// Sent by the proxy: the claim table is full of claims that are worth more; not claimed.
    EgressNoRoom = 78, "egress_no_room", Egress, Pass;
}

const _: () = assert!(Outcome::ALL.len() <= SLOTS as usize);

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn numbers_are_dense() {
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(outcome.number() as usize, index, "{}", outcome.name());
            assert_eq!(Outcome::from_number(outcome.number()), Some(*outcome));
        }
        assert_eq!(Outcome::from_number(Outcome::ALL.len() as u32), None);
    }

    #[test]
    fn what_passes_without_a_daemon_is_named_alike_when_it_is_punted() {
        for outcome in Outcome::ALL {
            let Some(punted) = outcome.punted() else { continue };
            assert_eq!(outcome.action(), Action::Pass, "{}", outcome.name());
            assert!(matches!(punted.action(), Action::Punted(_)), "{}", punted.name());
            assert_eq!(punted.hook(), outcome.hook(), "{}", outcome.name());
            let decap = if outcome.hook() == Hook::Decap { "decap_" } else { "" };
            let (plain, punted) = (outcome.name().strip_prefix(decap), punted.name().strip_prefix(decap));
            let stem = punted.and_then(|name| name.strip_prefix("punted_")).unwrap();
            let rest = plain.and_then(|name| name.strip_prefix(stem)).unwrap();
            assert!(rest.is_empty() || rest.starts_with('_'), "{}", outcome.name());
        }
    }

    #[test]
    fn texts_are_the_names_in_other_letters_and_begin_with_their_hook() {
        for outcome in Outcome::ALL {
            let name = std::format!("{outcome:?}");
            let letters = name.char_indices().flat_map(|(at, letter)| {
                let blank = (at > 0 && letter.is_ascii_uppercase()).then_some('_');
                blank.into_iter().chain([letter.to_ascii_lowercase()])
            });
            assert!(outcome.name().chars().eq(letters), "{name}");
            let begins = |prefix| outcome.name().starts_with(prefix);
            assert!(match outcome.hook() {
                Hook::Ingress => !["decap", "egress_", "slow_"].into_iter().any(begins),
                Hook::Decap => begins("decap"),
                Hook::Egress => begins("egress_"),
                Hook::Slow => begins("slow_"),
            });
            assert_eq!(outcome.hook() == Hook::Slow, matches!(outcome.action(), Action::Slow(_)), "{name}");
        }
    }

    #[test]
    fn every_punted_outcome_is_reached_from_one_that_passes_and_nothing_passes_on_an_overflow_but_whole_packets() {
        for outcome in Outcome::ALL {
            let Action::Punted(punt) = outcome.action() else { continue };
            assert!(Outcome::ALL.iter().any(|plain| plain.punted() == Some(*outcome)), "{}", outcome.name());
            let is_fragment = outcome.name().contains("fragment");
            let expected = if is_fragment { Action::Dropped } else { Action::Pass };
            assert_eq!(punt.overflow().action(), expected, "{}", outcome.name());
        }
    }
}
