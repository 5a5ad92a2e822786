//! The word beside an entry of the claim table: the rest of the key, and what the claim was made for.
//!
//! The table keeps 34 bits of a key, which is all that a look-up needs. A daemon that takes over the maps reads the
//! claims of this node with their whole keys from both. The fast path never touches these words.
//!
//! Who makes a new claim of this node writes the word right after the compare-and-swap of the entry, which only one of
//! several writers wins. Word and entry are not written at once, and no fence orders them for the reader. It needs
//! none: sixteen bits of the key are in both, and a word that does not agree with its entry is not read.

use crate::{
    abi::NO_SERVICE,
    coded,
    sip::Kind,
    table::{Entry, buckets},
};

/// Bits of the key that the entry has not.
const LOW: u64 = (1 << 30) - 1;
/// Bits of the key that are in both.
const CHECK: u64 = 0xffff << 30;
const SERVICE_SHIFT: u32 = 46;
const KIND_SHIFT: u32 = 54;
const CLASS_SHIFT: u32 = 58;
const STAGE_SHIFT: u32 = 62;

coded! {
    /// Which key of a message a claim is on.
    pub enum KeyKind {
        /// The request key `L`.
        Request = 1,
        /// The reply key `X`.
        Reply = 2,
        /// The request key, where a reply other than 100 made the claim, see [`Self::of_request_key`].
        Answered = 3,
    }
}

impl KeyKind {
    /// The kind of a claim on the request key that a message of this kind makes, a response with this status.
    ///
    /// Whoever begins a transaction sends its request on, or 100, or answers it. But a reply that meets a proxy which
    /// knows nothing of its transaction is sent on as well (RFC 3261 §16.7): a claim that such a reply makes is as good
    /// as no other one.
    #[must_use]
    #[inline(always)] // two compares
    pub const fn of_request_key(kind: Kind, status: u16) -> Self {
        if matches!(kind, Kind::Response) && status != 100 { Self::Answered } else { Self::Request }
    }
}

coded! {
    /// Which of its lifetimes a claim has.
    pub enum Class {
        /// That of a transaction that has ended, or is no INVITE's.
        Short = 1,
        /// That of an INVITE transaction without a final answer.
        Proceeding = 2,
        /// That of a call of a service with affinity `call`.
        Call = 3,
    }
}

/// What a claim was made for, in four bits, as claims travel: kind of key in the lower two, class in the upper two; 0
/// is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Purpose(u8);

impl Purpose {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self(0);

    /// A claim on a key of this kind, of this class.
    #[must_use]
    pub const fn of(kind: KeyKind, class: Class) -> Self {
        Self::of_codes(kind.code() as u8, class.code() as u8)
    }

    /// From the codes of kind and class, 0 for one that is not known.
    #[must_use]
    pub const fn of_codes(kind: u8, class: u8) -> Self {
        Self((class & 3) << 2 | kind & 3)
    }

    /// From the lowest four bits of a number, as [`Self::code`] gives it.
    #[must_use]
    pub const fn decode(code: u8) -> Self {
        Self(code & 0xf)
    }

    /// The four bits.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The kind of key, if it is known.
    #[must_use]
    pub const fn kind(self) -> Option<KeyKind> {
        KeyKind::decode(self.0 as u64 & 3)
    }

    /// The class: the shortest one where none is known.
    #[must_use]
    pub const fn class(self) -> Class {
        match Class::decode(self.0 as u64 >> 2) {
            Some(class) => class,
            None => Class::Short,
        }
    }

    /// The same with another class.
    #[must_use]
    pub const fn with_class(self, class: Class) -> Self {
        Self::of_codes(self.0, class.code() as u8)
    }
}

/// How far a transaction has come, by what its node has sent: beside the claim on its request key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Nothing was noted: its request was sent on. With affinity `call`: no message of an INVITE was sent.
    Begun = 0,
    /// A provisional reply was sent; with affinity `call`, or an INVITE.
    Waits = 1,
    /// A final reply was sent, or an ACK.
    Answered = 2,
    /// And one more, which [`Self::Answered`] follows again.
    AnsweredAgain = 3,
}

coded! {
    /// What a message says of its transaction's stage.
    pub enum Step {
        /// Nothing.
        Stays = 1,
        /// It waits for a final reply.
        Waits = 2,
        /// It has had one.
        Answered = 3,
    }
}

/// The word: bits 0 to 45 of the key, the service (8 bits), the kind of key (4), the class (4), the stage (2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Rest(pub u64);

impl Rest {
    /// Beside a claim on `key` of which no more is known.
    #[must_use]
    #[inline(always)] // two instructions
    pub const fn new(key: u64) -> Self {
        Self(key & (LOW | CHECK) | (NO_SERVICE as u64) << SERVICE_SHIFT)
    }

    /// Beside a claim on `key` for a message of `service`: its place in the daemon's list, or [`NO_SERVICE`].
    #[must_use]
    #[inline(always)] // a few instructions
    pub const fn of(key: u64, service: u8, kind: KeyKind, class: Class) -> Self {
        Self::of_codes(key, service, kind.code(), class.code())
    }

    /// The same by the codes of kind and class.
    #[must_use]
    #[inline(always)] // a few instructions
    pub const fn of_codes(key: u64, service: u8, kind: u64, class: u64) -> Self {
        let made_for = (service as u64) << SERVICE_SHIFT | (kind & 0xf) << KIND_SHIFT | (class & 0xf) << CLASS_SHIFT;
        Self(key & (LOW | CHECK) | made_for)
    }

    /// Beside a claim on `key` of which so much is known: a peer's, or one that the core has this node make.
    #[must_use]
    pub const fn for_purpose(key: u64, purpose: Purpose) -> Self {
        Self::of_codes(key, NO_SERVICE, purpose.code() as u64 & 3, purpose.code() as u64 >> 2)
    }

    /// The same word for another class.
    #[must_use]
    pub const fn with_class(self, class: Class) -> Self {
        Self(self.0 & !(0xf << CLASS_SHIFT) | class.code() << CLASS_SHIFT)
    }

    /// What it says of kind and class.
    #[must_use]
    pub const fn purpose(self) -> Purpose {
        Purpose::of_codes((self.0 >> KIND_SHIFT) as u8, (self.0 >> CLASS_SHIFT) as u8)
    }

    /// The word after a message of the same transaction. Each final reply and ACK changes it, so that a reader sees one
    /// that is sent again.
    #[must_use]
    #[inline(always)] // a few instructions
    pub const fn after(self, step: Step) -> Self {
        let stage = match (step, self.stage()) {
            (Step::Stays, _) => return self,
            (Step::Waits, _) => Stage::Waits,
            (Step::Answered, Stage::Answered) => Stage::AnsweredAgain,
            (Step::Answered, _) => Stage::Answered,
        };
        self.at(stage)
    }

    /// The word of a transaction that has come so far.
    #[must_use]
    #[inline(always)] // a few instructions
    pub const fn at(self, stage: Stage) -> Self {
        Self(self.0 & !(3 << STAGE_SHIFT) | (stage as u64) << STAGE_SHIFT)
    }

    /// Whether it is the word of a claim on `key`, as far as it has the key.
    #[must_use]
    #[inline(always)] // a few instructions
    pub const fn is_of(self, key: u64) -> bool {
        (self.0 ^ key) & (LOW | CHECK) == 0
    }

    /// How far the claim's transaction has come.
    #[must_use]
    #[inline(always)] // a few instructions
    pub const fn stage(self) -> Stage {
        match self.0 >> STAGE_SHIFT {
            0 => Stage::Begun,
            1 => Stage::Waits,
            2 => Stage::Answered,
            _ => Stage::AnsweredAgain,
        }
    }

    /// Whether the word may be that of this entry: sixteen bits of the key are in both.
    #[must_use]
    #[inline(always)] // three instructions
    pub const fn is_beside(self, entry: Entry) -> bool {
        (self.0 ^ entry.0) & CHECK == 0
    }

    /// The key of the entry in a bucket of a table of `mask` + 1 buckets; `None`: the word is another claim's.
    #[must_use]
    pub fn key(self, entry: Entry, bucket: u32, mask: u32) -> Option<u64> {
        let key = entry.0 & !LOW | self.0 & LOW;
        (self.is_beside(entry) && buckets(key, mask).contains(&bucket)).then_some(key)
    }

    /// The service's place in the daemon's list, or [`NO_SERVICE`].
    #[must_use]
    pub const fn service(self) -> u8 {
        (self.0 >> SERVICE_SHIFT) as u8
    }

    /// The kind of key, if it was noted.
    #[must_use]
    pub const fn kind(self) -> Option<KeyKind> {
        KeyKind::decode(self.0 >> KIND_SHIFT & 0xf)
    }

    /// The class of the claim by the last message that made it longer, if it was noted.
    #[must_use]
    pub const fn class(self) -> Option<Class> {
        Class::decode(self.0 >> CLASS_SHIFT & 0xf)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, prop_oneof};

    use super::*;
    use crate::ids::{NodeId, Tick};

    fn kinds() -> impl Strategy<Value = KeyKind> {
        prop_oneof![Just(KeyKind::Request), Just(KeyKind::Reply), Just(KeyKind::Answered)]
    }

    fn classes() -> impl Strategy<Value = Class> {
        prop_oneof![Just(Class::Short), Just(Class::Proceeding), Just(Class::Call)]
    }

    #[test]
    fn each_final_reply_changes_the_word_and_a_provisional_one_says_that_it_waits_again() {
        let steps =
            [Step::Stays, Step::Waits, Step::Waits, Step::Answered, Step::Answered, Step::Answered, Step::Stays];
        let mut rest = Rest::of(7, 3, KeyKind::Request, Class::Short);
        let seen = steps.map(|step| {
            rest = rest.after(step);
            rest.stage()
        });
        let expected = [
            Stage::Begun,
            Stage::Waits,
            Stage::Waits,
            Stage::Answered,
            Stage::AnsweredAgain,
            Stage::Answered,
            Stage::Answered,
        ];
        assert_eq!(seen, expected);
        assert_eq!(rest.after(Step::Waits).stage(), Stage::Waits);
    }

    proptest! {
        #[test]
        fn word_and_entry_give_back_exactly_the_key_and_what_it_was_for(
            key: u64, owner in 1..=NodeId::MAX, epoch in 0..16_u8, at: u16, service: u8,
            kind in kinds(), class in classes(), bits in 0..22_u32,
        ) {
            let (entry, rest) = (Entry::new(key, owner, epoch, Tick::new(at)), Rest::of(key, service, kind, class));
            let mask = (1 << bits) - 1;
            for bucket in buckets(key, mask) {
                prop_assert_eq!(rest.key(entry, bucket, mask), Some(key));
            }
            prop_assert_eq!((rest.service(), rest.kind(), rest.class()), (service, Some(kind), Some(class)));
            prop_assert_eq!(rest.stage(), Stage::Begun);
            for step in [Step::Waits, Step::Answered, Step::Answered] {
                let after = rest.after(step);
                prop_assert_eq!(after.key(entry, buckets(key, mask)[0], mask), Some(key));
                prop_assert_eq!((after.service(), after.kind(), after.class()), (service, Some(kind), Some(class)));
            }
            let purpose = Purpose::of(kind, class);
            prop_assert_eq!((purpose.kind(), purpose.class()), (Some(kind), class));
            prop_assert_eq!((Purpose::decode(purpose.code()), rest.purpose()), (purpose, purpose));
            prop_assert_eq!(Rest::for_purpose(key, purpose), Rest::of(key, NO_SERVICE, kind, class));
            prop_assert_eq!(rest.with_class(Class::Short), Rest::of(key, service, kind, Class::Short));
            prop_assert_eq!(purpose.with_class(Class::Short), Purpose::of(kind, Class::Short));
            let bare = Rest::new(key);
            prop_assert_eq!((bare.purpose(), bare.purpose().class()), (Purpose::UNKNOWN, Class::Short));
            prop_assert_eq!((bare.service(), bare.kind(), bare.class()), (NO_SERVICE, None, None));
            prop_assert_eq!(bare.0 << 18, rest.0 << 18);
        }

        #[test]
        fn a_word_is_of_its_key_alone(key: u64, other: u64) {
            let rest = Rest::of(key, 3, KeyKind::Request, Class::Short).after(Step::Answered);
            prop_assert!(rest.is_of(key));
            prop_assert_eq!(rest.is_of(other), (key ^ other) << 18 == 0);
        }

        #[test]
        fn a_word_of_another_key_is_not_read(key: u64, other: u64, bits in 0..22_u32) {
            prop_assume!((key ^ other) & CHECK != 0);
            let entry = Entry::new(key, 1, 0, Tick::new(9));
            let mask = (1 << bits) - 1;
            let rest = Rest::new(other);
            for bucket in buckets(key, mask).into_iter().chain(buckets(other, mask)) {
                prop_assert_eq!(rest.key(entry, bucket, mask), None);
            }
        }

        #[test]
        fn a_word_of_another_key_that_passes_for_this_ones_must_fit_the_bucket_too(key: u64, low in 0..=LOW) {
            let (other, mask) = (key & !LOW | low, (1 << 17) - 1);
            let entry = Entry::new(key, 1, 0, Tick::new(9));
            let rest = Rest::new(other);
            let [bucket, _] = buckets(key, mask);
            prop_assert_eq!(rest.key(entry, bucket, mask).is_some(), buckets(other, mask).contains(&bucket));
        }
    }
}
