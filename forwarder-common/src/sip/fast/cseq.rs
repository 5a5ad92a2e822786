//! The CSeq: its number, and of a response also its method (RFC 3261 §20.16).

use super::{
    super::{
        Kind, Method,
        swar::{ZEROS, decimal, index, not_digit, text},
    },
    no_key::NoKey,
    value::value,
};
use crate::{marks::Marks, reader::Reader};

const REQUEST_END: u64 = text(b" SIP/2.0");

/// Checks the start line's end and reads the CSeq, once the scan has ended.
///
/// # Errors
/// A header that the key needs is missing or not in the plain form.
#[inline(always)] // straight-line code before the hashing
pub fn cseq<R: Reader>(r: &R, m: &Marks) -> Result<(), NoKey> {
    if m.call_id() == 0 || m.cseq() == 0 || m.via() == 0 {
        return Err(NoKey::Incomplete);
    }
    if m.kind() != Some(Kind::Response) && !request_line_ends(r, m) {
        return Err(NoKey::Form);
    }
    let name_end = m.cseq() as usize;
    let at = value(r, m, name_end)?;
    let w = r.word(at).ok_or(NoKey::Incomplete)?;
    let stop = not_digit(w);
    let (number, digits) = if stop == 0 {
        let second = r.word(at + 8).ok_or(NoKey::Incomplete)?;
        let more = index(not_digit(second) | 1 << 63);
        let (w, second) = (w - ZEROS, second.wrapping_sub(ZEROS));
        if more == 0 {
            (decimal(w), 8)
        } else {
            // Sixteen digits with zeros before them: the first eight and the last eight.
            let shift = 8 * (8 - more);
            let head = decimal(w << shift);
            let tail = decimal((w >> (64 - shift)) | (second << shift));
            (head.wrapping_mul(100_000_000).wrapping_add(tail), 8 + more)
        }
    } else {
        let count = index(stop);
        if count == 0 {
            return Err(NoKey::Form);
        }
        (decimal((w.wrapping_sub(ZEROS)) << (8 * (8 - count))), count)
    };
    let end = m.hide(at + digits);
    if end + 8 > m.end() as usize {
        return Err(NoKey::Incomplete);
    }
    let after = r.word(end).ok_or(NoKey::Incomplete)?;
    if number > u64::from(u32::MAX) || (after as u8 != b' ' && after as u8 != b'\t') {
        return Err(NoKey::Form);
    }
    m.set_number(number as u32);
    if m.kind() == Some(Kind::Response) {
        response_method(m, after)?;
    }
    Ok(())
}

/// The method that a response's CSeq names; `after` begins with the blank behind the number.
#[inline(always)] // part of the above
fn response_method(m: &Marks, after: u64) -> Result<(), NoKey> {
    let name = after >> 8;
    if name as u8 <= 0x20 {
        return Err(NoKey::Form);
    }
    m.set_method(Method::of_word(name));
    Ok(())
}

/// RFC 3261 §7.1: the request line ends with a blank and the version.
#[inline(always)] // part of the above
fn request_line_ends<R: Reader>(r: &R, m: &Marks) -> bool {
    let first = m.first() as usize;
    let crlf = first.wrapping_sub(10);
    let start = m.start() as usize;
    // The shortest line, "A B SIP/2.0" with an LF, has 12 bytes.
    if first.wrapping_sub(start) < 12 || first < start {
        return false;
    }
    let crlf = m.hide(crlf);
    let Some(w) = r.word(crlf) else { return false };
    if w == REQUEST_END {
        let Some(end) = r.word(crlf + 8) else { return false };
        return end as u8 == b'\r';
    }
    let Some(w) = r.word(crlf + 1) else { return false };
    w == REQUEST_END
}
