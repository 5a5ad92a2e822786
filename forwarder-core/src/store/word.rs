//! Which of two words of one owner about one claim is the later one.
//!
//! An owner says of its claim when it ends, and later that it ends earlier or later than that. Its words may overtake
//! each other, so each has a number; and it forgets the numbers when its daemon restarts, so all that comes over a new
//! link is later than what came over the links before it.

use std::cmp::Ordering;

/// Links to one peer are counted modulo this: there are seven bits for it.
const SESSIONS: u8 = 128;
/// Numbers follow each other in a ring of so many, 1 to 255.
const RING: u8 = 255;
/// More than so many numbers ahead is behind. What is lost of a link's words comes again within seconds, and the egress
/// program does not change one claim as often as this in that time.
const AHEAD: u8 = 127;

/// A word's place among all that its owner says of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// Over which link it came, in the receiver's count; 0 at the owner itself.
    pub session: u8,
    /// 0 if the claim is new, else how often it was changed, 255 followed by 1.
    pub number: u8,
}

impl Word {
    /// The session after this one.
    #[must_use]
    pub const fn next_session(session: u8) -> u8 {
        (session + 1) % SESSIONS
    }

    /// The owner's next word about the same claim.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { number: if self.number == RING { 1 } else { self.number + 1 }, ..self }
    }

    /// Whether the claim was made earlier and changed since.
    #[must_use]
    pub const fn is_change(self) -> bool {
        self.number != 0
    }

    /// Of this word, which arrives, and one that is `held`: which was said later.
    #[must_use]
    pub fn order(self, held: Self) -> Ordering {
        if self.session != held.session {
            return Ordering::Greater;
        }
        match (self.number, held.number) {
            (arrives, held) if arrives == held => Ordering::Equal,
            (_, 0) => Ordering::Greater,
            (0, _) => Ordering::Less,
            (arrives, held) => {
                let ahead = (u16::from(arrives) + u16::from(RING) - u16::from(held)) % u16::from(RING);
                if ahead <= u16::from(AHEAD) { Ordering::Greater } else { Ordering::Less }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_each_other_for_ever() {
        let mut word = Word::default();
        for _ in 0..1000 {
            let mut later = word;
            for _ in 0..AHEAD {
                later = later.next();
                assert_eq!(
                    (later.order(word), word.order(later)),
                    (Ordering::Greater, Ordering::Less),
                    "{word:?} {later:?}"
                );
                assert!(later.is_change());
            }
            assert_eq!(word.order(word), Ordering::Equal);
            word = word.next();
        }
    }

    #[test]
    fn what_comes_over_a_new_link_is_later_whatever_its_number() {
        let held = Word { session: 127, number: 9 };
        let session = Word::next_session(held.session);
        assert_eq!(session, 0);
        for number in [0, 8, 9, 200] {
            assert_eq!(Word { session, number }.order(held), Ordering::Greater);
        }
    }
}
