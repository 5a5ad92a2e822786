//! Methods, as far as claims care: what a 2xx to one of them makes.

use super::swar::{low, text};
use crate::coded;

coded! {
    /// Method of a transaction: that of a request's first line, or that which a response's CSeq names.
    pub enum Method {
        /// Any that is none of the others.
        Other = 1,
        /// INVITE (RFC 3261 §13): its 2xx makes a dialog.
        Invite = 2,
        /// SUBSCRIBE and NOTIFY (RFC 6665 §4), REFER (RFC 3515) and REGISTER (RFC 3261 §10): their 2xx makes a
        /// subscription or a binding, or belongs to one.
        Lasting = 3,
    }
}

const INVITE: u64 = text(b"INVITE\0\0");
const NOTIFY: u64 = text(b"NOTIFY\0\0");
const REFER: u64 = text(b"REFER\0\0\0");
const SUBSCRIBE: u64 = text(b"SUBSCRI\0");
const REGISTER: u64 = text(b"REGISTE\0");

impl Method {
    /// The method that begins with these seven bytes, a blank behind a shorter name included. Longer names are known by
    /// their first seven letters, which no other method has.
    #[inline(always)] // a few compares
    #[must_use]
    pub const fn of_word(word: u64) -> Self {
        let (five, six, seven) = (word & low(5), word & low(6), word & low(7));
        let (after_five, after_six) = ((word >> 40) as u8, (word >> 48) as u8);
        if six == INVITE && after_six <= 0x20 {
            Self::Invite
        } else if seven == REGISTER
            || seven == SUBSCRIBE
            || (six == NOTIFY && after_six <= 0x20)
            || (five == REFER && after_five <= 0x20)
        {
            Self::Lasting
        } else {
            Self::Other
        }
    }

    /// The method with this name.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        // A name that goes on behind a tab is an odd one, and ends where a word's would not.
        if name.iter().any(|byte| *byte <= b' ') {
            return Self::Other;
        }
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(name).take(7) {
            *to = *from;
        }
        Self::of_word(u64::from_le_bytes(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_known_by_their_names() {
        for (name, method) in [
            ("INVITE", Method::Invite),
            ("REGISTER", Method::Lasting),
            ("SUBSCRIBE", Method::Lasting),
            ("NOTIFY", Method::Lasting),
            ("REFER", Method::Lasting),
            ("OPTIONS", Method::Other),
            ("BYE", Method::Other),
            ("INVITED", Method::Other),
            ("REFERS", Method::Other),
            ("NOTIFYX", Method::Other),
            ("REGIST", Method::Other),
            ("invite", Method::Other),
            ("INVITE\tsip:b", Method::Other),
            ("", Method::Other),
        ] {
            assert_eq!(Method::of(name.as_bytes()), method, "{name}");
        }
    }
}
