//! The fast reader: finds the key's headers 32 bytes at a time, in a form that the kernel's verifier accepts.
//!
//! It reads the plain form that nearly every message has. Whatever else it sees, it punts and never guesses: on each
//! message that it answers, [`super::full`] answers the same. Every offset carried around a loop goes through
//! [`Marks::hide`]; see there why.

mod cseq;
mod no_key;
mod value;
mod via;

pub use cseq::cseq;
pub use no_key::NoKey;

use core::ops::Range;

use super::swar::{HIGH, ZEROS, below, decimal, hit, index, low, maybe, not_digit, text};
use super::{Kind, Method};
use crate::{
    hash::{SipHash, padded},
    marks::Marks,
    reader::Reader,
};
use value::value;

/// Payload bytes within which the key's headers must begin: the last one ends before byte 580 in real captures.
pub const BOUND: usize = 2047;
/// Steps of one chunk: the kernel verifies a chunk once, whatever the number of calls.
pub const CHUNK: usize = 16;
/// Chunks per message: 64 blocks of 32 bytes and as many lines that are shorter than a block.
pub const CHUNKS: usize = 8;
/// Words of a Call-ID or a branch (127 bytes and an end); a longer one is punted.
const WORDS: usize = 16;
/// The shortest message that has a key, in bytes: `A SIP/2.0`, `i:x` and `cseq:1` with two line ends. What is shorter
/// is a keep-alive or somebody's text, such as the two line ends of RFC 5626 §3.5.1, "hello" or "0".
pub const SHORTEST: usize = 20;
/// Words of a datagram that are looked through for a letter or sign where it begins with none.
const BLANK_WORDS: usize = 8;

const LOW32: u64 = low(4);
const LOW56: u64 = low(7);
const RESPONSE: u64 = text(b"SIP/2.0 ");
const INVITE: u64 = text(b"INVITE \0");
const CANCEL: u64 = text(b"CANCEL \0");
const ACK: u64 = text(b"ACK \0\0\0\0");
const CALL_ID: u64 = text(b"call-id\0");
const CALL_ID_CASE: u64 = text(&[0x20, 0x20, 0x20, 0x20, 0, 0x20, 0x20, 0]);
const CSEQ: u64 = text(b"cseq\0\0\0\0");
const CSEQ_CASE: u64 = text(&[0x20, 0x20, 0x20, 0x20, 0, 0, 0, 0]);
const VIA: u64 = text(b"via\0\0\0\0\0");
const VIA_CASE: u64 = text(&[0x20, 0x20, 0x20, 0, 0, 0, 0, 0]);
const STUN_COOKIE: u64 = 0x42a4_1221;

/// Looks at the first bytes of the payload: what kind of message it is, if it can be SIP at all.
///
/// # Errors
/// It is no SIP, or not in the plain form.
#[inline(always)] // inlined into the kernel's one function before the scan
pub fn start_line<R: Reader>(r: &R, m: &Marks) -> Result<(), NoKey> {
    let start = m.start() as usize;
    let length = (m.end() as usize).wrapping_sub(start);
    let Some(w) = r.word(start) else { return Err(NoKey::KeepAlive) };
    let first = w as u8;
    let is_white = matches!(first, b'\r' | b'\n' | 0 | b' ' | b'\t');
    if length < SHORTEST {
        return Err(if is_white || length == 0 { NoKey::KeepAlive } else { NoKey::NotSip });
    }
    if first <= 0x20 {
        let stun = first <= 1 && w >> 32 == STUN_COOKIE;
        return Err(if stun || !is_white {
            NoKey::NotSip
        } else if is_blank(r, start, length) {
            NoKey::KeepAlive
        } else {
            NoKey::Form
        });
    }
    if first >= 0x7f {
        return Err(NoKey::NotSip);
    }
    if w == RESPONSE {
        let status = r.word(start + 8).ok_or(NoKey::Incomplete)?;
        if index(not_digit(status) | 1 << 63) != 3 {
            return Err(NoKey::NotSip);
        }
        m.set_kind(Kind::Response);
        m.set_status(decimal(status.wrapping_sub(ZEROS) << 40) as u16);
        return Ok(());
    }
    let invite = w & LOW56 == INVITE;
    m.set_method(if invite { Method::Invite } else { Method::Other });
    m.set_kind(if w & LOW32 == ACK {
        Kind::Ack
    } else if w & LOW56 == CANCEL {
        Kind::Cancel
    } else {
        Kind::Request
    });
    Ok(())
}

/// Whether nothing in a datagram is a letter or sign, if it is short enough to look: a run of NUL or line ends.
#[inline(always)] // one place
fn is_blank<R: Reader>(r: &R, start: usize, length: usize) -> bool {
    for word in 0..BLANK_WORDS {
        let at = 8 * word;
        if at >= length {
            return true;
        }
        // What ends before it says so is for a reader that sees all of it.
        let Some(w) = r.word(start + at) else { return false };
        // What is behind the end counts as blank.
        let w = if length - at < 8 { w & low(length - at) } else { w };
        if below(w, 0x21) != HIGH {
            return false;
        }
    }
    length <= 8 * BLANK_WORDS
}

/// One step of the scan: one block, at most one line. `None` when all headers are marked or the headers have ended.
///
/// # Errors
/// Why the reading ends.
#[inline(always)] // the loop around it is the function
pub fn step<R: Reader>(r: &R, m: &Marks, off: usize) -> Result<Option<usize>, NoKey> {
    if off.wrapping_sub(m.start() as usize) > BOUND {
        return Err(NoKey::Bounds);
    }
    let (block, width) = match r.block(off) {
        Some(block) => (block, 32),
        None => ([r.word(off).ok_or(NoKey::Incomplete)?, 0, 0, 0], 8),
    };
    let [a, b, c, d] = block;
    let (a, b, c, d) = (maybe(a, b'\n'), maybe(b, b'\n'), maybe(c, b'\n'), maybe(d, b'\n'));
    if (a | b | c | d) & HIGH == 0 {
        return Ok(Some(m.hide(off + width)));
    }
    let (a, b, c, d) = (a & HIGH, b & HIGH, c & HIGH, d & HIGH);
    let (at, hits, more) = if a != 0 {
        (0, a, b | c | d)
    } else if b != 0 {
        (8, b, c | d)
    } else if c != 0 {
        (16, c, d)
    } else {
        (24, d, 0)
    };
    // A fixed advance lets the next load begin before this index is known; a second line in the block restarts there.
    let next = if more | (hits & hits.wrapping_sub(1)) == 0 { m.hide(off + width) } else { 0 };
    let line = m.hide(off + at + index(hits) + 1);
    let next = if next == 0 { line } else { next };
    let w = r.word(line).ok_or(NoKey::Incomplete)?;
    if m.first() == 0 {
        m.set_first(line as u16);
    }
    mark_line(m, line, w, next)
}

/// A bit for the lower six bits of each letter and end of line that [`mark_line`] looks for.
const OF_INTEREST: u64 = 1 << (b'c' & 63)
    | 1 << (b'C' & 63)
    | 1 << (b'i' & 63)
    | 1 << (b'I' & 63)
    | 1 << (b'v' & 63)
    | 1 << (b'V' & 63)
    | 1 << b'\n'
    | 1 << b'\r';

/// Marks the line that begins with the word `w` if the key needs it.
#[inline(always)] // part of the step
fn mark_line(m: &Marks, line: usize, w: u64, next: usize) -> Result<Option<usize>, NoKey> {
    // Most lines are of no interest, which one test says; the few others that it lets through the match below sorts
    // out.
    if (OF_INTEREST >> (w & 63)) & 1 == 0 {
        return Ok(Some(next));
    }
    match w as u8 {
        b'c' | b'C' => {
            if (w | CALL_ID_CASE) & LOW56 == CALL_ID && separates((w >> 56) as u8) {
                mark_call_id(m, line + 7);
            } else if (w | CSEQ_CASE) & LOW32 == CSEQ && separates((w >> 32) as u8) && m.cseq() == 0 {
                m.set_cseq((line + 4) as u16);
            }
        }
        b'i' | b'I' if separates((w >> 8) as u8) => mark_call_id(m, line + 1),
        b'v' | b'V' if m.via() == 0 => {
            if separates((w >> 8) as u8) {
                m.set_via((line + 1) as u16);
            } else if (w | VIA_CASE) & 0x00ff_ffff == VIA && separates((w >> 24) as u8) {
                m.set_via((line + 3) as u16);
            }
        }
        b'\n' => return Ok(None),
        b'\r' => return if w as u16 == u16::from_le_bytes(*b"\r\n") { Ok(None) } else { Err(NoKey::Form) },
        _ => {}
    }
    let complete = m.call_id() != 0 && m.cseq() != 0 && m.via() != 0;
    Ok(if complete { None } else { Some(next) })
}

#[inline(always)] // two instructions
fn mark_call_id(m: &Marks, at: usize) {
    if m.call_id() == 0 {
        m.set_call_id(at as u16);
    }
}

#[inline(always)] // a few instructions
const fn separates(byte: u8) -> bool {
    byte == b':' || byte == b' ' || byte == b'\t'
}

/// Hashes the text at `at` up to its end; where it ends. With `branch`, `;` and `,` end it as well.
#[inline(always)] // the hash stays in registers
fn text_at<R: Reader>(r: &R, m: &Marks, hash: &mut SipHash, at: usize, branch: bool) -> Result<usize, NoKey> {
    let mut off = at;
    for _ in 0..WORDS {
        let w = r.word(off).ok_or(NoKey::Incomplete)?;
        let mut stop = below(w, 0x21);
        if branch {
            stop |= hit(w, b';') | hit(w, b',');
        }
        if stop != 0 {
            let count = index(stop);
            if count != 0 {
                hash.put(w & (((stop & stop.wrapping_neg()) >> 7) - 1));
            }
            return Ok(m.hide(off + count));
        }
        hash.put(w);
        off += 8;
    }
    Err(NoKey::Bounds)
}

/// Whether a text may end at the byte at `end`: white space, or with `branch` a delimiter; and within the payload.
#[inline(always)] // part of the above
fn ends<R: Reader>(r: &R, m: &Marks, end: usize, branch: bool) -> Result<(), NoKey> {
    let byte = r.byte(end).ok_or(NoKey::Incomplete)?;
    let plain = matches!(byte, b'\r' | b'\n' | b' ' | b'\t') || (branch && matches!(byte, b';' | b','));
    if !plain {
        return Err(NoKey::Form);
    }
    // Bytes behind the UDP payload are not the message's, whatever they look like.
    if end >= m.end() as usize { Err(NoKey::Incomplete) } else { Ok(()) }
}

/// Hashes what both keys begin with, Call-ID and CSeq number, the latter as 0 with `affinity_call`. The marks have the
/// hash then, which [`Marks::request_key`] ends, and [`reply_key`] goes on with it.
///
/// # Errors
/// The Call-ID is not in the plain form, or too long.
#[inline(always)] // the hash stays in registers
pub fn hash<R: Reader>(r: &R, m: &Marks, hash_key: [u64; 2], affinity_call: bool) -> Result<SipHash, NoKey> {
    let name_end = m.call_id() as usize;
    let at = value(r, m, name_end)?;
    let mut hash = SipHash::new(hash_key);
    let end = text_at(r, m, &mut hash, at, false)?;
    ends(r, m, end, false)?;
    let length = end.wrapping_sub(at);
    m.set_id(at as u16);
    m.set_call_id_length(length as u16);
    let number = if affinity_call { 0 } else { m.number() };
    hash.put(u64::from(number) | ((length as u64) << 32));
    m.set_hash(hash);
    Ok(hash)
}

/// The reply key `X`, into the marks; 0 where the top Via has no branch.
///
/// # Errors
/// The top Via is not in the plain form, or its branch is too long.
#[inline(always)] // the hash stays in registers
pub fn reply_key<R: Reader>(r: &R, m: &Marks, mut hash: SipHash) -> Result<(), NoKey> {
    m.set_reply_key(0);
    let name_end = m.via() as usize;
    let via = value(r, m, name_end)?;
    let at = via::branch(r, m, via)?;
    if at == 0 {
        return Ok(());
    }
    let end = text_at(r, m, &mut hash, at, true)?;
    ends(r, m, end, true)?;
    let length = end.wrapping_sub(at);
    m.set_branch(at as u16);
    m.set_branch_length(length as u16);
    if length != 0 {
        hash.put(length as u64);
        m.set_reply_key(hash.finish(padded(m.call_id_length() as usize) + 8 + padded(length) + 8));
    }
    Ok(())
}

/// Reads a whole payload on the host, as the kernel does: both keys, with offsets into `payload`.
///
/// # Errors
/// Why the fast path has no key.
pub fn read(payload: &[u8], hash_key: [u64; 2], affinity_call: bool) -> Result<Marks, NoKey> {
    let m = Marks::default();
    let hash = read_in(payload, 0..payload.len(), &m, hash_key, affinity_call)?;
    reply_key(&payload, &m, hash)?;
    Ok(m)
}

/// Reads the payload in a frame on the host, as the kernel does, up to what both keys begin with. Offsets in `m` are
/// into the frame.
///
/// # Errors
/// Why the fast path has no key.
pub fn read_in(
    frame: &[u8],
    payload: Range<usize>,
    m: &Marks,
    hash_key: [u64; 2],
    affinity_call: bool,
) -> Result<SipHash, NoKey> {
    if payload.end > usize::from(u16::MAX) {
        return Err(NoKey::Bounds);
    }
    m.begin(payload.start, payload.end);
    start_line(&frame, m)?;
    scan(&frame, m, payload.start)?;
    cseq(&frame, m)?;
    hash(&frame, m, hash_key, affinity_call)
}

fn scan(r: &&[u8], m: &Marks, mut off: usize) -> Result<(), NoKey> {
    for _ in 0..CHUNK * CHUNKS {
        match step(r, m, off)? {
            Some(next) => off = next,
            None => return Ok(()),
        }
    }
    Err(NoKey::Bounds)
}
