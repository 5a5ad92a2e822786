//! How long a claim lasts after the owner has sent a message (RFC 3261 §17, RFC 6026).

use crate::{abi::Lifetimes, ids::Tick, rest::Class, sip::fast::kind};

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

/// The lifetime that a message gives to its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Ticks from now.
    pub ticks: u16,
    /// A longer lifetime than this ends earlier.
    pub shortens: bool,
    /// The message makes a claim where there is none.
    pub claims: bool,
    /// The message makes a shorter lifetime longer.
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
            | (self.shortens as u32) << 16
            | (self.claims as u32) << 17
            | (self.extends as u32) << 18
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
        Self {
            ticks: word as u16,
            shortens: word >> 16 & 1 != 0,
            claims: word >> 17 & 1 != 0,
            extends: word >> 18 & 1 != 0,
            class,
        }
    }

    /// Whether a claim with `remaining` ticks is to be written anew.
    ///
    /// It is extended when a sixteenth of its lifetime has gone, so that peers hear of few refreshes. What is left is
    /// more than a transaction needs: at least 206 s of the 217 s that a proceeding INVITE asks for.
    #[inline(always)] // a few instructions
    #[must_use]
    pub const fn changes(self, remaining: u16) -> bool {
        let slack = self.ticks / 16;
        (self.extends && remaining.saturating_add(slack) < self.ticks) || (self.shortens && remaining > self.ticks)
    }
}

/// What a message of `message_kind` that the owner sends does; `None`: nothing. `call_ticks` is 0 without affinity
/// `call`.
///
/// A node that `drains` lets all claims end but those of INVITE transactions, whose end is in others' hands.
#[inline(always)] // part of the egress program
#[must_use]
pub const fn of(
    message_kind: u16,
    invite: bool,
    status: u16,
    lifetimes: &Lifetimes,
    call_ticks: u16,
    drains: bool,
) -> Option<Lifetime> {
    let (ticks, shortens, claims, class) = match message_kind {
        kind::ACK => return None,
        kind::CANCEL => (lifetimes.failed, false, false, Class::Short),
        kind::RESPONSE if invite && status >= 300 => (lifetimes.failed, true, true, Class::Short),
        kind::RESPONSE if invite && status >= 200 => (lifetimes.ended, true, true, Class::Short),
        _ if invite => (lifetimes.proceeding, false, true, Class::Proceeding),
        _ => (lifetimes.ended, false, true, Class::Short),
    };
    let extends = !drains || invite || message_kind == kind::CANCEL;
    if call_ticks != 0 {
        return Some(Lifetime { ticks: call_ticks, shortens: false, claims, extends, class: Class::Call });
    }
    Some(Lifetime { ticks, shortens, claims, extends, class })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICKS: Lifetimes = Lifetimes { proceeding: 57, failed: 18, ended: 11 };

    fn after(message_kind: u16, invite: bool, status: u16) -> Option<(u16, bool, bool)> {
        of(message_kind, invite, status, &TICKS, 0, false).map(|l| {
            assert_eq!(Lifetime::unpack(l.pack()), l);
            assert_eq!(matches!(l.class, Class::Proceeding), l.ticks == TICKS.proceeding, "{l:?}");
            (l.ticks, l.shortens, l.claims)
        })
    }

    #[test]
    fn each_kind_of_message_has_its_lifetime() {
        assert_eq!(after(kind::REQUEST, true, 0), Some((57, false, true)));
        assert_eq!(after(kind::RESPONSE, true, 100), Some((57, false, true)));
        assert_eq!(after(kind::RESPONSE, true, 183), Some((57, false, true)));
        assert_eq!(after(kind::RESPONSE, true, 200), Some((11, true, true)));
        assert_eq!(after(kind::RESPONSE, true, 486), Some((18, true, true)));
        assert_eq!(after(kind::RESPONSE, false, 200), Some((11, false, true)));
        assert_eq!(after(kind::REQUEST, false, 0), Some((11, false, true)));
        assert_eq!(after(kind::CANCEL, false, 0), Some((18, false, false)));
        assert_eq!(after(kind::ACK, false, 0), None);
        let call = of(kind::RESPONSE, true, 200, &TICKS, 1700, false);
        assert_eq!(
            call,
            Some(Lifetime { ticks: 1700, shortens: false, claims: true, extends: true, class: Class::Call })
        );
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
        let extends = |message_kind, invite, status| {
            of(message_kind, invite, status, &TICKS, 0, true).map(|lifetime| (lifetime.claims, lifetime.extends))
        };
        assert_eq!(extends(kind::REQUEST, true, 0), Some((true, true)));
        assert_eq!(extends(kind::RESPONSE, true, 183), Some((true, true)));
        assert_eq!(extends(kind::CANCEL, false, 0), Some((false, true)));
        assert_eq!(extends(kind::REQUEST, false, 0), Some((true, false)));
        assert_eq!(extends(kind::RESPONSE, false, 200), Some((true, false)));
        let ended = of(kind::RESPONSE, false, 200, &TICKS, 0, true).unwrap();
        assert!(!ended.changes(1), "what has little left gains nothing");
    }

    #[test]
    fn a_claim_is_written_anew_only_when_it_gains_or_must_end_earlier() {
        let extend = Lifetime { ticks: 57, shortens: false, claims: true, extends: true, class: Class::Proceeding };
        assert!(!extend.changes(57) && !extend.changes(54) && extend.changes(53) && !extend.changes(100));
        let shorten = Lifetime { ticks: 11, shortens: true, claims: true, extends: true, class: Class::Short };
        assert_eq!(Lifetime::unpack(shorten.pack()), shorten);
        assert!(shorten.changes(57) && !shorten.changes(11) && shorten.changes(10));
    }
}
