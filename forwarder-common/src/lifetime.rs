//! How long a claim lasts after the owner has sent a message (RFC 3261 §17, RFC 6026).

use crate::{
    abi::Lifetimes,
    coded,
    ids::Tick,
    rest::{Class, KeyKind, Step},
    sip::{Kind, Method},
};

/// T4 of RFC 3261 §17.1.1.2, the longest that a message stays in the network, in milliseconds.
pub const T4_MS: u64 = 5000;

/// The lifetimes that follow from SIP's timers, in milliseconds: T1 (RFC 3261 §17.1.1.1) and Timer C (§16.6), and from
/// how long a call may be silent with affinity `call`.
#[must_use]
pub const fn of_timers(t1_ms: u64, timer_c_ms: u64, call_ms: u64) -> Lifetimes {
    let final_ms = 64 * t1_ms + T4_MS;
    Lifetimes {
        proceeding: Tick::covering_ms(timer_c_ms + final_ms),
        failed: Tick::covering_ms(64 * t1_ms + final_ms),
        ended: Tick::covering_ms(final_ms),
        call: Tick::covering_ms(call_ms),
    }
}

/// Lifetimes that bound nothing.
pub const LONGEST: Lifetimes = {
    let most = Tick::LONGEST;
    Lifetimes { proceeding: most, failed: most, ended: most, call: most }
};

/// The longest lifetime in ticks that a claim of a class can have by what the cluster is configured with.
#[must_use]
pub const fn most(class: Class, lifetimes: &Lifetimes) -> u16 {
    let Lifetimes { proceeding, failed, ended, call } = *lifetimes;
    match class {
        Class::Short if failed > ended => failed,
        Class::Short => ended,
        Class::Call if call > proceeding => call,
        Class::Call | Class::Proceeding => proceeding,
    }
}

/// The class of a claim of which only is known how many ticks it has left: the shortest that may have as many.
#[must_use]
pub const fn class_of(ticks: u16, lifetimes: &Lifetimes) -> Class {
    if ticks <= most(Class::Short, lifetimes) {
        Class::Short
    } else if ticks <= most(Class::Proceeding, lifetimes) {
        Class::Proceeding
    } else {
        Class::Call
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
    /// Ticks that the message gives to the claim of a call that there is already; 0 without affinity `call`.
    pub call_ticks: u16,
    /// A claim with more ticks left than this is such a call's.
    pub call_above: u16,
    /// What the message notes beside the claim on its request key.
    pub step: Step,
}

impl Lifetime {
    /// That of a message that makes no claim and changes none.
    pub const NOTHING: Self = Self {
        ticks: 0,
        sign: Sign::Nothing,
        claims: false,
        extends: false,
        class: Class::Short,
        step: Step::Stays,
        call_ticks: 0,
        call_above: 0,
    };
    /// Of a message that only says that its transaction has had a final reply.
    pub const ANSWERED: Self = Self { step: Step::Answered, ..Self::NOTHING };

    /// In one word, for a function that the verifier checks alone.
    #[inline(always)] // a few instructions
    #[must_use]
    pub const fn pack(self) -> u64 {
        self.ticks as u64
            | (self.claims as u64) << 17
            | (self.extends as u64) << 18
            | self.sign.code() << 20
            | self.class.code() << 24
            | self.step.code() << 28
            | (self.call_ticks as u64) << 32
            | (self.call_above as u64) << 48
    }

    /// The inverse of [`Self::pack`].
    #[inline(always)] // a few instructions
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        let class = match Class::decode(word >> 24 & 0xf) {
            Some(class) => class,
            // No such word was packed.
            None => Class::Short,
        };
        let sign = match Sign::decode(word >> 20 & 0xf) {
            Some(sign) => sign,
            None => Sign::Nothing,
        };
        let step = match Step::decode(word >> 28 & 0xf) {
            Some(step) => step,
            None => Step::Stays,
        };
        Self {
            ticks: word as u16,
            sign,
            claims: word >> 17 & 1 != 0,
            extends: word >> 18 & 1 != 0,
            class,
            step,
            call_ticks: (word >> 32) as u16,
            call_above: (word >> 48) as u16,
        }
    }

    /// The lifetime for this node's claim with `remaining` ticks: each message of a call makes the call's claim last
    /// as long as a call again. No other claim has as much left.
    #[inline(always)] // a few instructions
    #[must_use]
    pub const fn of_claim(self, remaining: u16) -> Self {
        if self.call_ticks != 0 && remaining > self.call_above {
            Self { ticks: self.call_ticks, class: Class::Call, ..self }
        } else {
            self
        }
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
            (KeyKind::Request | KeyKind::Answered, Sign::Provisional | Sign::Final | Sign::Ack) => branch,
            (KeyKind::Request | KeyKind::Answered | KeyKind::Reply, _) => 0,
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

/// What a message of this kind that the owner sends does; `method` is that of its transaction. `call_ticks` is 0
/// without affinity `call`.
///
/// With that, a claim lasts as long as a call only where there is one: the proxy has sent a 2xx that makes a dialog, a
/// subscription or a binding, or the ACK of a 2xx to its own INVITE. The ACK of another final reply is not to be given
/// here. All else claims as a transaction does, and no transaction's end ends the claim, for others have the same key.
///
/// A node that `drains` lets all claims end but those of INVITE transactions, whose end is in others' hands, and of the
/// calls that they make.
#[inline(always)] // part of the egress program
#[must_use]
pub const fn of(
    kind: Kind,
    method: Method,
    status: u16,
    lifetimes: &Lifetimes,
    call_ticks: u16,
    drains: bool,
) -> Lifetime {
    let invite = matches!(method, Method::Invite);
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
    // With affinity `call` one claim stands for all transactions of a call: only its INVITEs are waited for.
    let is_noted = call_ticks == 0 || invite;
    let step = match kind {
        Kind::Ack => Step::Answered,
        Kind::Response if is_noted && status >= 200 => Step::Answered,
        Kind::Response if is_noted => Step::Waits,
        Kind::Request if call_ticks != 0 && invite => Step::Waits,
        Kind::Request | Kind::Response | Kind::Cancel => Step::Stays,
    };
    let call_above = lifetimes.proceeding;
    if call_ticks == 0 {
        return Lifetime { ticks, sign, claims, extends, class, step, call_ticks, call_above };
    }
    let is_2xx = status >= 200 && status < 300;
    let (makes_call, extends) = match kind {
        Kind::Ack => (true, true),
        Kind::Response => (is_2xx && !matches!(method, Method::Other), extends),
        Kind::Request | Kind::Cancel => (false, extends),
    };
    let (ticks, class) = if makes_call { (call_ticks, Class::Call) } else { (ticks, class) };
    Lifetime { ticks, sign: Sign::Nothing, claims, extends, class, step, call_ticks, call_above }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICKS: Lifetimes = Lifetimes { proceeding: 57, failed: 18, ended: 11, call: 1700 };

    fn after(kind: Kind, method: Method, status: u16) -> (u16, Sign, bool) {
        let lifetime = of(kind, method, status, &TICKS, 0, false);
        assert_eq!(Lifetime::unpack(lifetime.pack()), lifetime);
        assert_eq!(matches!(lifetime.class, Class::Proceeding), lifetime.ticks == TICKS.proceeding, "{lifetime:?}");
        (lifetime.ticks, lifetime.sign, lifetime.claims)
    }

    #[test]
    fn each_kind_of_message_has_its_lifetime() {
        assert_eq!(after(Kind::Request, Method::Invite, 0), (57, Sign::Invite, true));
        assert_eq!(after(Kind::Response, Method::Invite, 100), (57, Sign::Provisional, true));
        assert_eq!(after(Kind::Response, Method::Invite, 183), (57, Sign::Provisional, true));
        assert_eq!(after(Kind::Response, Method::Invite, 200), (11, Sign::Final, true));
        assert_eq!(after(Kind::Response, Method::Invite, 486), (18, Sign::Final, true));
        assert_eq!(after(Kind::Response, Method::Other, 200), (11, Sign::Nothing, true));
        assert_eq!(after(Kind::Request, Method::Other, 0), (11, Sign::Nothing, true));
        assert_eq!(after(Kind::Cancel, Method::Other, 0), (18, Sign::Nothing, false));
        assert_eq!(after(Kind::Ack, Method::Other, 0), (18, Sign::Ack, false));
    }

    #[test]
    fn only_what_makes_a_call_or_belongs_to_one_lasts_as_long_as_a_call() {
        const CALL: u16 = 1700;
        let after = |kind, method, status, drains| {
            let lifetime = of(kind, method, status, &TICKS, CALL, drains);
            assert_eq!(Lifetime::unpack(lifetime.pack()), lifetime);
            assert_eq!(lifetime.class == Class::Call, lifetime.ticks == CALL);
            assert_eq!(lifetime.sign, Sign::Nothing, "no transaction of a call ends its claim");
            (lifetime.ticks, lifetime.claims, lifetime.extends)
        };
        for drains in [false, true] {
            assert_eq!(after(Kind::Response, Method::Invite, 200, drains), (CALL, true, true));
            assert_eq!(after(Kind::Response, Method::Lasting, 200, drains), (CALL, true, !drains));
            for method in [Method::Invite, Method::Lasting, Method::Other] {
                assert_ne!(after(Kind::Response, method, 404, drains).0, CALL);
                assert_ne!(after(Kind::Response, method, 100, drains).0, CALL);
                assert_ne!(after(Kind::Request, method, 0, drains).0, CALL);
            }
            assert_eq!(after(Kind::Ack, Method::Other, 0, drains), (CALL, false, true));
            assert_eq!(after(Kind::Response, Method::Other, 404, drains), (11, true, !drains), "to an OPTIONS");
            assert_eq!(after(Kind::Response, Method::Other, 200, drains), (11, true, !drains));
            assert_eq!(after(Kind::Request, Method::Invite, 0, drains), (57, true, true));
            assert_eq!(after(Kind::Response, Method::Invite, 180, drains), (57, true, true));
            assert_eq!(after(Kind::Response, Method::Invite, 486, drains), (18, true, true));
        }
        let bye = of(Kind::Request, Method::Other, 0, &TICKS, CALL, false);
        assert_eq!([0, 11, 57].map(|remaining| bye.of_claim(remaining)), [bye; 3]);
        assert_eq!(bye.of_claim(58), Lifetime { ticks: CALL, class: Class::Call, ..bye });
        let of_transaction = of(Kind::Request, Method::Other, 0, &TICKS, 0, false);
        assert_eq!(of_transaction.of_claim(1700), of_transaction, "its service is another one now");
    }

    #[test]
    fn a_class_has_a_longest_lifetime_and_a_lifetime_a_class() {
        let classes = [Class::Short, Class::Proceeding, Class::Call];
        assert_eq!(classes.map(|class| most(class, &TICKS)), [18, 57, 1700]);
        assert_eq!([0, 18, 19, 57, 58, 30_000].map(|ticks| class_of(ticks, &TICKS) as usize), [1, 1, 2, 2, 3, 3]);
        let brief = Lifetimes { call: 3, ..TICKS };
        assert_eq!(most(Class::Call, &brief), 57, "a call rings first");
        assert_eq!(classes.map(|class| most(class, &LONGEST)), [Tick::LONGEST; 3]);
    }

    #[test]
    fn replies_and_acks_note_how_far_their_transaction_has_come() {
        let (stays, waits, answered) = (Step::Stays, Step::Waits, Step::Answered);
        for (kind, method, status, transaction, call) in [
            (Kind::Request, Method::Invite, 0, stays, waits),
            (Kind::Response, Method::Invite, 100, waits, waits),
            (Kind::Response, Method::Invite, 200, answered, answered),
            (Kind::Response, Method::Invite, 486, answered, answered),
            (Kind::Ack, Method::Other, 0, answered, answered),
            (Kind::Cancel, Method::Other, 0, stays, stays),
            (Kind::Request, Method::Other, 0, stays, stays),
            (Kind::Response, Method::Other, 100, waits, stays),
            (Kind::Response, Method::Other, 401, answered, stays),
        ] {
            let of = |call_ticks| {
                let lifetime = of(kind, method, status, &TICKS, call_ticks, false);
                assert_eq!(Lifetime::unpack(lifetime.pack()), lifetime);
                lifetime.step
            };
            assert_eq!((of(0), of(1700)), (transaction, call), "{kind:?} {status}");
        }
    }

    #[test]
    fn lifetimes_cover_the_timers_of_the_transactions() {
        // Timer C and 64·T1 and T4 are 217 s; 2·64·T1 and T4 are 69 s; 64·T1 and T4 are 37 s. A tick is 4.295 s.
        let usual = of_timers(500, 180_000, 7_200_000);
        assert_eq!(usual, Lifetimes { proceeding: 52, failed: 18, ended: 10, call: 1678 });
        for (t1_ms, timer_c_ms) in [(500, 180_000), (2000, 181_000), (1, 86_400_000)] {
            let Lifetimes { proceeding, failed, ended, .. } = of_timers(t1_ms, timer_c_ms, 0);
            assert!(Tick::milliseconds(ended - 1) + 5 >= 64 * t1_ms + T4_MS);
            assert!(Tick::milliseconds(failed - 1) + 5 >= 128 * t1_ms + T4_MS);
            assert!(Tick::milliseconds(proceeding - 1) + 5 >= timer_c_ms + 64 * t1_ms + T4_MS);
        }
    }

    #[test]
    fn a_draining_node_lets_all_end_but_its_invites() {
        let extends = |kind, method, status| {
            let lifetime = of(kind, method, status, &TICKS, 0, true);
            (lifetime.claims, lifetime.extends)
        };
        assert_eq!(extends(Kind::Request, Method::Invite, 0), (true, true));
        assert_eq!(extends(Kind::Response, Method::Invite, 183), (true, true));
        assert_eq!(extends(Kind::Cancel, Method::Other, 0), (false, true));
        assert_eq!(extends(Kind::Ack, Method::Other, 0), (false, false));
        assert_eq!(extends(Kind::Request, Method::Other, 0), (true, false));
        assert_eq!(extends(Kind::Response, Method::Other, 200), (true, false));
        let ended = of(Kind::Response, Method::Other, 200, &TICKS, 0, true);
        assert!(!ended.extends(1), "what has little left gains nothing");
    }

    #[test]
    fn a_claim_is_written_anew_only_when_it_gains_and_no_message_makes_one_shorter() {
        let proceeding = of(Kind::Response, Method::Invite, 183, &TICKS, 0, false);
        assert_eq!([57, 54, 53, 100].map(|left| proceeding.extends(left)), [false, false, true, false]);
        let refused = of(Kind::Response, Method::Invite, 486, &TICKS, 0, false);
        assert_eq!([57, 18, 16].map(|left| refused.extends(left)), [false, false, true]);
        let ack = of(Kind::Ack, Method::Other, 0, &TICKS, 0, false);
        assert!(![1, 18, 57].iter().any(|left| ack.extends(*left)));
    }

    #[test]
    fn the_daemon_hears_who_waits_for_a_final_reply_and_who_has_sent_one_too_early_for_the_claim() {
        let tells =
            |kind, method, status| [1, 18, 19, 57].map(|left| of(kind, method, status, &TICKS, 0, false).tells(left));
        assert_eq!(tells(Kind::Response, Method::Invite, 100), [true; 4]);
        assert_eq!(tells(Kind::Response, Method::Invite, 486), [false, false, true, true]);
        assert_eq!(tells(Kind::Ack, Method::Other, 0), [false, false, true, true]);
        for (kind, method, status) in [
            (Kind::Request, Method::Invite, 0),
            (Kind::Request, Method::Other, 0),
            (Kind::Response, Method::Other, 200),
            (Kind::Cancel, Method::Other, 0),
        ] {
            assert_eq!(tells(kind, method, status), [false; 4]);
        }
    }
}
