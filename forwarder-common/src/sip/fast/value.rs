//! Where a header's value begins.

use super::{
    super::swar::{HIGH, blank, index},
    no_key::NoKey,
};
use crate::{marks::Marks, reader::Reader};

const COLON_BLANK: u16 = u16::from_le_bytes(*b": ");

/// Where the value of a header begins, given the end of its name (RFC 3261 §7.3.1: blanks around the colon).
#[inline(always)] // small, and the offset stays unknown to the verifier
pub(super) fn value<R: Reader>(r: &R, m: &Marks, name_end: usize) -> Result<usize, NoKey> {
    let w = r.word(name_end).ok_or(NoKey::Incomplete)?;
    if w as u16 == COLON_BLANK && (w >> 16) as u8 > 0x20 {
        // What nearly every header has: the value's place does not wait for the search below.
        return Ok(m.hide(name_end + 2));
    }
    let before = index(!blank(w) & HIGH | 1 << 63);
    let rest = w >> (8 * (before & 7));
    if rest as u8 != b':' {
        return Err(NoKey::Form);
    }
    let rest = rest >> 8;
    let after = index(!blank(rest) & HIGH | 1 << 63);
    // What was shifted in reads as zero, which no value begins with: blanks up to the end of the word are punted.
    if (rest >> (8 * (after & 7))) as u8 <= 0x20 {
        return Err(NoKey::Form);
    }
    Ok(m.hide(name_end + before + 1 + after))
}
