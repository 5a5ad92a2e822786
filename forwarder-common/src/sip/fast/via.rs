//! The branch of the top Via (RFC 3261 §20.42).

use super::{
    super::swar::{below, hit, index, low, text},
    no_key::NoKey,
};
use crate::{marks::Marks, reader::Reader};

/// Words and parameters of the top Via up to its branch.
const VIA_STEPS: usize = 32;
const VERSION: u64 = text(b"SIP/2.0/");
const OVER_UDP: u64 = text(b"UDP \0\0\0\0");
const BRANCH: u64 = text(b"branch=\0");
const BRANCH_CASE: u64 = text(&[0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0, 0]);

/// Where the value of the parameter `branch` begins in the Via at `at`; 0 if it has none (RFC 3261 §20.42).
#[inline(always)] // the loop's offset must be hidden
pub(super) fn branch<R: Reader>(r: &R, m: &Marks, at: usize) -> Result<usize, NoKey> {
    // What nearly every Via begins with needs no search.
    let first = r.word(at).ok_or(NoKey::Incomplete)?;
    let second = r.word(at + 8).ok_or(NoKey::Incomplete)?;
    let mut off = m.hide(if first == VERSION && second & low(4) == OVER_UDP { at + 12 } else { at });
    for _ in 0..VIA_STEPS {
        let w = r.word(off).ok_or(NoKey::Incomplete)?;
        // Two tests instead of five: `below` also finds a few that mean nothing here and are stepped over.
        let stop = hit(w, b';') | below(w, b',' + 1);
        if stop == 0 {
            off = m.hide(off + 8);
            continue;
        }
        let count = index(stop);
        let here = m.hide(off + count);
        match (w >> (8 * (count & 7))) as u8 {
            b';' => {}
            b',' => return Ok(0),
            b'\r' | b'\n' => return line_end(r, here),
            b' ' | b'!' | b'#'..=b'\'' | b')'..=b'+' => {
                off = m.hide(here + 1);
                continue;
            }
            _ => return Err(NoKey::Form),
        }
        off = m.hide(here + 1);
        let w = r.word(off).ok_or(NoKey::Incomplete)?;
        if (w | BRANCH_CASE) & low(7) == BRANCH {
            if (w >> 56) as u8 <= 0x20 {
                return Err(NoKey::Form);
            }
            return Ok(m.hide(off + 7));
        }
        let named = (w | BRANCH_CASE) & low(6) == BRANCH & low(6);
        if w as u8 <= 0x20 || (named && matches!((w >> 48) as u8, b' ' | b'\t' | b'\r' | b'\n')) {
            return Err(NoKey::Form);
        }
    }
    Err(NoKey::Bounds)
}

/// A Via without a branch on its first line: none, unless the next line goes on with it.
#[inline(always)] // part of the above
fn line_end<R: Reader>(r: &R, at: usize) -> Result<usize, NoKey> {
    let w = r.word(at).ok_or(NoKey::Incomplete)?;
    let next = if w as u16 == u16::from_le_bytes(*b"\r\n") {
        (w >> 16) as u8
    } else if w as u8 == b'\n' {
        (w >> 8) as u8
    } else {
        return Err(NoKey::Form);
    };
    if matches!(next, b' ' | b'\t') { Err(NoKey::Form) } else { Ok(0) }
}
