//! The key of a SIP message, as global functions: the verifier checks each once, with unknown arguments.
//!
//! A scan in the entry programs themselves would be verified along every path that leads there.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use forwarder_common::{
    keys::{Affinity, Seen},
    marks::Marks,
    sip::{
        Kind, Method,
        fast::{self, NoKey},
    },
};

use crate::{maps, packet::Frame};

/// The message belongs to a service of affinity `call`.
pub(crate) const AFFINITY_CALL: u64 = 1;
/// The reply key `X` of a request is wanted.
pub(crate) const X_OF_REQUEST: u64 = 2;
/// The reply key of a reply is wanted.
pub(crate) const X_OF_REPLY: u64 = 4;

/// The key that the branch gives of a reply to an INVITE, or of an ACK, is wanted if it can be had.
pub(crate) const BRANCH_OF_INVITE: u64 = 8;

/// How the keys of a message are asked for.
#[inline(always)] // mostly known where it is asked
pub(crate) const fn flags(seen: Seen, affinity: Affinity) -> u64 {
    let call = if affinity.is_call() { AFFINITY_CALL } else { 0 };
    let request = if seen.has_reply_key(false) { X_OF_REQUEST } else { 0 };
    call | request | if seen.has_reply_key(true) { X_OF_REPLY } else { 0 }
}

/// Returned by a chunk that has found all.
const DONE: u64 = 1 << 32;
/// Returned by a chunk that gives up, with the code of the reason.
const GIVES_UP: u64 = 1 << 33;

/// The keys of the message between the marks `start` and `end` of an XDP frame, into the marks.
#[inline(always)] // a call
pub(crate) fn ingress(ctx: *mut xdp_md, flags: u64) -> Result<(), NoKey> {
    result(ingress_key(ctx, flags))
}

/// The same for a TC frame.
#[inline(always)] // a call
pub(crate) fn egress(ctx: *mut __sk_buff, flags: u64) -> Result<(), NoKey> {
    result(egress_key(ctx, flags))
}

#[inline(always)] // a compare
fn result(code: u64) -> Result<(), NoKey> {
    if code == 0 { Ok(()) } else { Err(gives_up(code)) }
}

/// The reason with this code; no function of this file gives another one.
#[inline(always)] // a compare
fn gives_up(code: u64) -> NoKey {
    NoKey::decode(code).unwrap_or(NoKey::Form)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ingress_key(ctx: *mut xdp_md, flags: u64) -> u64 {
    let Some(marks) = maps::marks_ingress() else { return NoKey::Form.code() };
    key(Frame::xdp(ctx), marks, flags, |off| ingress_chunk(ctx, off))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_key(ctx: *mut __sk_buff, flags: u64) -> u64 {
    let Some(marks) = maps::marks_egress() else { return NoKey::Form.code() };
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
fn chunk(frame: Frame, marks: &Marks, off: u64) -> u64 {
    let mut off = off as usize;
    for _ in 0..fast::CHUNK {
        match fast::step(&frame, marks, off) {
            Ok(Some(next)) => off = next,
            Ok(None) => return DONE,
            Err(why) => return GIVES_UP | why.code(),
        }
    }
    off as u64
}

#[inline(always)] // the body of two functions
fn key(frame: Frame, marks: &Marks, flags: u64, chunk: impl Fn(u64) -> u64) -> u64 {
    match try_key(frame, marks, flags, chunk) {
        Ok(()) => 0,
        Err(why) => why.code(),
    }
}

#[inline(always)] // the body of two functions
fn try_key(frame: Frame, marks: &Marks, flags: u64, chunk: impl Fn(u64) -> u64) -> Result<(), NoKey> {
    let Some(config) = maps::config() else { return Err(NoKey::Form) };
    fast::start_line(&frame, marks)?;
    scan(marks, chunk)?;
    fast::cseq(&frame, marks)?;
    let hash = fast::hash(&frame, marks, config.hash_key, flags & AFFINITY_CALL != 0)?;
    let kind = marks.kind();
    let of_this_kind = if kind == Some(Kind::Response) { X_OF_REPLY } else { X_OF_REQUEST };
    let of_invite = kind == Some(Kind::Ack) || (kind == Some(Kind::Response) && marks.method() == Method::Invite);
    if flags & of_this_kind != 0 || (flags & BRANCH_OF_INVITE != 0 && of_invite) {
        let read = fast::reply_key(&frame, marks, hash);
        // Without a branch such a message still has its request key.
        return if flags & of_this_kind != 0 { read } else { Ok(()) };
    }
    Ok(())
}

#[inline(always)] // eight calls
fn scan(marks: &Marks, chunk: impl Fn(u64) -> u64) -> Result<(), NoKey> {
    let mut off = u64::from(marks.start());
    for _ in 0..fast::CHUNKS {
        off = chunk(off);
        if off & DONE != 0 {
            return Ok(());
        }
        if off & GIVES_UP != 0 {
            return Err(gives_up(off ^ GIVES_UP));
        }
    }
    Err(NoKey::Bounds)
}
