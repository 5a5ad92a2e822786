//! How long a claim lasts after the owner has sent a message (RFC 3261 §17, RFC 6026).

use crate::{
    abi::Lifetimes,
    coded,
    ids::Tick,
    rest::{Class, KeyKind},
    sip::Kind,
};

/// T4 of RFC 3261 §17.1.1.2, the longest that a message stays in the network, in milliseconds.
const T4_MS: u64 = 5000;

/// The lifetimes that follow from SIP's timers, in milliseconds: T1 (RFC 3261 §17.1.1.1) and Timer C (§16.6).
#[must_use]
pub const fn of_timers(t1_ms: u64, timer_c_ms: u64) -> Lifetimes {
    let final_ms = 64 * t1_ms + T4_MS;
    Lifetimes {
        proceeding: Tick::covering_ms(timer_c_ms + final_ms),
        failed: Tick::covering_ms(64 * t1_ms + final_ms),
        ended: Tick::covering_ms(final_ms),
    }
}

coded! {
    /// What a message that the owner sends says of the transaction that it belongs to.
    ///
    /// Only an INVITE's can end long before its claims would; the daemon, which hears of both keys of a transaction,
    /// makes them end then (`forwarder-core/src/node/invites.rs`). The programs make no claim shorter.
    pub enum Sign {
        /// Nothing that matters.
        Nothing = 1,
        /// It is an INVITE.
        Invite = 2,
        /// It is a provisional reply to an INVITE: this server transaction waits for its final one.
        Provisional = 3,
        /// It is a final reply to an INVITE.
        Final = 4,
        /// It is an ACK: an INVITE of this host has had its final reply.
        Ack = 5,
    }
}

/// The lifetime that a message gives to its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Ticks from now.
    pub ticks: u16,
    /// What the message says of its transaction.
    pub sign: Sign,
    /// The message makes a claim where there is none.
    pub claims: bool,
    /// The message makes a shorter lifetime longer, see [`Self::extends`].
    pub extends: bool,
    /// Which lifetime it is.
    pub class: Class,
}

impl Lifetime {
    /// In one word, for a function that the verifier checks alone.
    #[inline(always)] // a few instructions
    #[must_use]
    pub const fn pack(self) -> u32 {
        self.ticks as u32
            | (self.claims as u32) << 17
            | (self.extends as u32) << 18
            | (self.sign.code() as u32) << 20
            | (self.class.code() as u32) << 24
    }

    /// The inverse of [`Self::pack`].
    #[inline(always)] // a few instructions
    #[must_use]
    pub const fn unpack(word: u32) -> Self {
        let class = match Class::decode(word as u64 >> 24) {
            Some(class) => class,
            // No such word was packed.
            None => Class::Short,
        };
        let sign = match Sign::decode(word as u64 >> 20 & 0xf) {
            Some(sign) => sign,
            None => Sign::Nothing,
        };
        Self { ticks: word as u16, sign, claims: word >> 17 & 1 != 0, extends: word >> 18 & 1 != 0, class }
    }

    /// Whether a claim with `remaining` ticks is to be written anew.
    ///
    /// It is extended when a sixteenth of its lifetime has gone, so that peers hear of few refreshes. What is left is
    /// more than a transaction needs: at least 206 s of the 217 s that a proceeding INVITE asks for.
    #[inline(always)] // a few instructions
    #[must_use]
    pub const fn extends(self, remaining: u16) -> bool {
        let slack = self.ticks / 16;
        self.extends && remaining.saturating_add(slack) < self.ticks
    }

    /// What a key of the message is tied to, see [`crate::abi::ClaimEvent::other`]: `branch` is what the request key
    /// gives with the top Via's branch.
    #[inline(always)] // a few compares
    #[must_use]
    pub const fn tied_to(self, key: KeyKind, request: u64, branch: u64) -> u64 {
        match (key, self.sign) {
            (KeyKind::Reply, Sign::Invite) => request,
            (KeyKind::Request, Sign::Provisional | Sign::Final | Sign::Ack) => branch,
            (KeyKind::Request | KeyKind::Reply, _) => 0,
        }
    }

    /// Whether the daemon must hear of the message though the claim with `remaining` ticks stays as it is: one more
    /// server transaction waits, or one has ended and the claim may be too long.
    #[inline(always)] // a few instructions
    #[must_use]
    pub const fn tells(self, remaining: u16) -> bool {
        match self.sign {
            Sign::Nothing | Sign::Invite => false,
            Sign::Provisional => true,
            Sign::Final | Sign::Ack => remaining > self.ticks,
        }
    }
}

/// What a message of this kind that the owner sends does. `call_ticks` is 0 without affinity `call`.
///
/// A node that `drains` lets all claims end but those of INVITE transactions, whose end is in others' hands.
#[inline(always)] // part of the egress program
#[must_use]
pub const fn of(
    kind: Kind,
    invite: bool,
    status: u16,
    lifetimes: &Lifetimes,
    call_ticks: u16,
    drains: bool,
) -> Lifetime {
    let (ticks, sign, class) = match kind {
        Kind::Ack => (lifetimes.failed, Sign::Ack, Class::Short),
        Kind::Cancel => (lifetimes.failed, Sign::Nothing, Class::Short),
        Kind::Response if invite && status >= 300 => (lifetimes.failed, Sign::Final, Class::Short),
        Kind::Response if invite && status >= 200 => (lifetimes.ended, Sign::Final, Class::Short),
        Kind::Response if invite => (lifetimes.proceeding, Sign::Provisional, Class::Proceeding),
        Kind::Request if invite => (lifetimes.proceeding, Sign::Invite, Class::Proceeding),
        Kind::Request | Kind::Response => (lifetimes.ended, Sign::Nothing, Class::Short),
    };
    let (claims, extends) = match kind {
        Kind::Ack => (false, false),
        Kind::Cancel => (false, true),
        Kind::Request | Kind::Response => (true, !drains || invite),
    };
    if call_ticks != 0 {
        return Lifetime { ticks: call_ticks, sign: Sign::Nothing, claims, extends, class: Class::Call };
    }
    Lifetime { ticks, sign, claims, extends, class }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICKS: Lifetimes = Lifetimes { proceeding: 57, failed: 18, ended: 11 };

    fn after(kind: Kind, invite: bool, status: u16) -> (u16, Sign, bool) {
        let lifetime = of(kind, invite, status, &TICKS, 0, false);
        assert_eq!(Lifetime::unpack(lifetime.pack()), lifetime);
        assert_eq!(matches!(lifetime.class, Class::Proceeding), lifetime.ticks == TICKS.proceeding, "{lifetime:?}");
        (lifetime.ticks, lifetime.sign, lifetime.claims)
    }

    #[test]
    fn each_kind_of_message_has_its_lifetime() {
        assert_eq!(after(Kind::Request, true, 0), (57, Sign::Invite, true));
        assert_eq!(after(Kind::Response, true, 100), (57, Sign::Provisional, true));
        assert_eq!(after(Kind::Response, true, 183), (57, Sign::Provisional, true));
        assert_eq!(after(Kind::Response, true, 200), (11, Sign::Final, true));
        assert_eq!(after(Kind::Response, true, 486), (18, Sign::Final, true));
        assert_eq!(after(Kind::Response, false, 200), (11, Sign::Nothing, true));
        assert_eq!(after(Kind::Request, false, 0), (11, Sign::Nothing, true));
        assert_eq!(after(Kind::Cancel, false, 0), (18, Sign::Nothing, false));
        assert_eq!(after(Kind::Ack, false, 0), (18, Sign::Ack, false));
        let call = of(Kind::Response, true, 200, &TICKS, 1700, false);
        let expected = Lifetime { ticks: 1700, sign: Sign::Nothing, claims: true, extends: true, class: Class::Call };
        assert_eq!(call, expected);
    }

    #[test]
    fn lifetimes_cover_the_timers_of_the_transactions() {
        // Timer C and 64·T1 and T4 are 217 s; 2·64·T1 and T4 are 69 s; 64·T1 and T4 are 37 s. A tick is 4.295 s.
        let usual = of_timers(500, 180_000);
        assert_eq!(usual, Lifetimes { proceeding: 52, failed: 18, ended: 10 });
        for (t1_ms, timer_c_ms) in [(500, 180_000), (2000, 181_000), (1, 86_400_000)] {
            let Lifetimes { proceeding, failed, ended } = of_timers(t1_ms, timer_c_ms);
            assert!(Tick::milliseconds(ended - 1) + 5 >= 64 * t1_ms + T4_MS);
            assert!(Tick::milliseconds(failed - 1) + 5 >= 128 * t1_ms + T4_MS);
            assert!(Tick::milliseconds(proceeding - 1) + 5 >= timer_c_ms + 64 * t1_ms + T4_MS);
        }
    }

    #[test]
    fn a_draining_node_lets_all_end_but_its_invites() {
        let extends = |kind, invite, status| {
            let lifetime = of(kind, invite, status, &TICKS, 0, true);
            (lifetime.claims, lifetime.extends)
        };
        assert_eq!(extends(Kind::Request, true, 0), (true, true));
        assert_eq!(extends(Kind::Response, true, 183), (true, true));
        assert_eq!(extends(Kind::Cancel, false, 0), (false, true));
        assert_eq!(extends(Kind::Ack, false, 0), (false, false));
        assert_eq!(extends(Kind::Request, false, 0), (true, false));
        assert_eq!(extends(Kind::Response, false, 200), (true, false));
        let ended = of(Kind::Response, false, 200, &TICKS, 0, true);
        assert!(!ended.extends(1), "what has little left gains nothing");
    }

    #[test]
    fn a_claim_is_written_anew_only_when_it_gains_and_no_message_makes_one_shorter() {
        let proceeding = of(Kind::Response, true, 183, &TICKS, 0, false);
        assert_eq!([57, 54, 53, 100].map(|left| proceeding.extends(left)), [false, false, true, false]);
        let refused = of(Kind::Response, true, 486, &TICKS, 0, false);
        assert_eq!([57, 18, 16].map(|left| refused.extends(left)), [false, false, true]);
        let ack = of(Kind::Ack, false, 0, &TICKS, 0, false);
        assert!(![1, 18, 57].iter().any(|left| ack.extends(*left)));
    }

    #[test]
    fn the_daemon_hears_who_waits_for_a_final_reply_and_who_has_sent_one_too_early_for_the_claim() {
        let tells =
            |kind, invite, status| [1, 18, 19, 57].map(|left| of(kind, invite, status, &TICKS, 0, false).tells(left));
        assert_eq!(tells(Kind::Response, true, 100), [true; 4]);
        assert_eq!(tells(Kind::Response, true, 486), [false, false, true, true]);
        assert_eq!(tells(Kind::Ack, false, 0), [false, false, true, true]);
        for (kind, invite, status) in [
            (Kind::Request, true, 0),
            (Kind::Request, false, 0),
            (Kind::Response, false, 200),
            (Kind::Cancel, false, 0),
        ] {
            assert_eq!(tells(kind, invite, status), [false; 4]);
        }
    }
}
