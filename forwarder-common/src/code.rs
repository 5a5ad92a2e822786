//! Small enums that cross the border between two functions of a program as numbers.
//!
//! The verifier checks a global function apart from its callers, and such a function takes and returns numbers only.

/// Declares a fieldless enum with its codes from 1 on, so that 0 is left for "none of them", and both ways between the
/// two.
#[macro_export]
macro_rules! coded {
    (
        $(#[$meta:meta])*
        $visibility:vis enum $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $code:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        $visibility enum $name { $($(#[doc = $doc])+ $variant = $code,)+ }

        impl $name {
            /// As a number that is not 0.
            #[inline(always)] // nothing
            #[must_use]
            $visibility const fn code(self) -> u64 {
                self as u64
            }

            /// The one with this code.
            #[inline(always)] // a compare
            #[must_use]
            $visibility const fn decode(code: u64) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    coded! {
        /// Three of them.
        enum Colour {
            /// The first.
            Red = 1,
            /// The second.
            Green = 2,
            /// The third.
            Blue = 3,
        }
    }

    #[test]
    fn what_was_encoded_is_decoded_and_no_other_number_is() {
        for colour in [Colour::Red, Colour::Green, Colour::Blue] {
            assert_eq!(Colour::decode(colour.code()), Some(colour));
        }
        assert_eq!([0, 4, u64::MAX].map(Colour::decode), [None; 3]);
    }
}
