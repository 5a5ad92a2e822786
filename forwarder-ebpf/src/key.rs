//! The key of a SIP message, as global functions: the verifier checks each once, with unknown arguments.
//!
//! A scan in the entry programs themselves would be verified along every path that leads there.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use forwarder_common::{marks::Marks, outcome::Outcome, sip::fast};

use crate::{maps, packet::Frame};

/// The message belongs to a service of affinity `call`.
pub const AFFINITY_CALL: u64 = 1;
/// The reply key `X` of a request is wanted.
pub const X_OF_REQUEST: u64 = 2;
/// The reply key of a reply is wanted.
pub const X_OF_REPLY: u64 = 4;

/// Returned by a chunk that has found all.
const DONE: u64 = 1 << 32;
/// Returned by a chunk that gives up, with the outcome's number.
const PUNT: u64 = 1 << 33;

/// The keys of the message between the marks `start` and `end` of an XDP frame, into the marks.
#[inline(always)] // a call
pub fn ingress(ctx: *mut xdp_md, flags: u64) -> Result<(), Outcome> {
    result(ingress_key(ctx, flags))
}

/// The same for a TC frame.
#[inline(always)] // a call
pub fn egress(ctx: *mut __sk_buff, flags: u64) -> Result<(), Outcome> {
    result(egress_key(ctx, flags))
}

#[inline(always)] // a compare
fn result(code: u64) -> Result<(), Outcome> {
    match code {
        0 => Ok(()),
        code => Err(punt((code - 1) as u32)),
    }
}

/// The outcome with this number, of those that end a parse; without a table, which would be a map.
#[inline(always)] // a few compares
fn punt(number: u32) -> Outcome {
    const NOT_SIP: u32 = Outcome::NotSip.number();
    const KEEP_ALIVE: u32 = Outcome::KeepAlive.number();
    const BOUNDS: u32 = Outcome::UnreadBounds.number();
    const INCOMPLETE: u32 = Outcome::UnreadIncomplete.number();
    match number {
        NOT_SIP => Outcome::NotSip,
        KEEP_ALIVE => Outcome::KeepAlive,
        BOUNDS => Outcome::UnreadBounds,
        INCOMPLETE => Outcome::UnreadIncomplete,
        _ => Outcome::UnreadForm,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ingress_key(ctx: *mut xdp_md, flags: u64) -> u64 {
    let Some(marks) = maps::marks_ingress() else { return code(Outcome::UnreadForm) };
    key(Frame::xdp(ctx), marks, flags, |off| ingress_chunk(ctx, off))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_key(ctx: *mut __sk_buff, flags: u64) -> u64 {
    let Some(marks) = maps::marks_egress() else { return code(Outcome::UnreadForm) };
    key(Frame::tc(ctx), marks, flags, |off| egress_chunk(ctx, off))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ingress_chunk(ctx: *mut xdp_md, off: u64) -> u64 {
    let Some(marks) = maps::marks_ingress() else { return DONE };
    chunk(Frame::xdp(ctx), marks, off)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_chunk(ctx: *mut __sk_buff, off: u64) -> u64 {
    let Some(marks) = maps::marks_egress() else { return DONE };
    chunk(Frame::tc(ctx), marks, off)
}

#[inline(always)] // the body of two functions
fn chunk(frame: Frame, marks: &mut Marks, off: u64) -> u64 {
    let mut off = off as usize;
    for _ in 0..fast::CHUNK {
        match fast::step(&frame, marks, off) {
            Ok(Some(next)) => off = next,
            Ok(None) => return DONE,
            Err(outcome) => return PUNT | u64::from(outcome.number()),
        }
    }
    off as u64
}

#[inline(always)] // the body of two functions
fn key(frame: Frame, marks: &mut Marks, flags: u64, chunk: impl Fn(u64) -> u64) -> u64 {
    match try_key(frame, marks, flags, chunk) {
        Ok(()) => 0,
        Err(outcome) => code(outcome),
    }
}

const fn code(outcome: Outcome) -> u64 {
    outcome.number() as u64 + 1
}

#[inline(always)] // the body of two functions
fn try_key(frame: Frame, marks: &mut Marks, flags: u64, chunk: impl Fn(u64) -> u64) -> Result<(), Outcome> {
    let Some(config) = maps::config() else { return Err(Outcome::UnreadForm) };
    fast::start_line(&frame, marks)?;
    scan(marks, chunk)?;
    fast::cseq(&frame, marks)?;
    let hash = fast::hash(&frame, marks, config.hash_key, flags & AFFINITY_CALL != 0)?;
    let of_this_kind = if marks.kind() == fast::kind::RESPONSE { X_OF_REPLY } else { X_OF_REQUEST };
    if flags & of_this_kind != 0 {
        fast::reply_key(&frame, marks, hash)?;
    }
    Ok(())
}

#[inline(always)] // eight calls
fn scan(marks: &mut Marks, chunk: impl Fn(u64) -> u64) -> Result<(), Outcome> {
    let mut off = u64::from(marks.start());
    for _ in 0..fast::CHUNKS {
        off = chunk(off);
        if off & DONE != 0 {
            return Ok(());
        }
        if off & PUNT != 0 {
            return Err(punt(off as u32));
        }
    }
    Err(Outcome::UnreadBounds)
}
