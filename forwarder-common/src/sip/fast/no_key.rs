//! Why the fast reader gives no key, and where such a packet's way ends.

use crate::{coded, outcome::Outcome};

coded! {
    /// Why there is no key of a message.
    #[must_use]
    pub enum NoKey {
        /// It does not begin as SIP does.
        NotSip = 1,
        /// A keep-alive, or nothing at all.
        KeepAlive = 2,
        /// The reader's bounds end before the headers that make the key.
        Bounds = 3,
        /// Text in a form other than the plain one, SIP or not.
        Form = 4,
        /// Text without one of the headers that make the key, or cut off, SIP or not.
        Incomplete = 5,
    }
}

impl NoKey {
    /// Where the way of such a packet to a service ends.
    #[inline(always)] // a few compares
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::NotSip => Outcome::NotSip,
            Self::KeepAlive => Outcome::KeepAlive,
            Self::Bounds => Outcome::UnreadBounds,
            Self::Form => Outcome::UnreadForm,
            Self::Incomplete => Outcome::UnreadIncomplete,
        }
    }
}
