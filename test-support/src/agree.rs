//! What the fast reader answers, the full one answers too: for tests and for the fuzz target `readers`.

use std::ops::Range;

use forwarder_common::{
    hash,
    marks::Marks,
    sip::{
        Kind, Method,
        fast::{self, NoKey},
        full,
    },
};

const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

/// Whether the fast reader answers; fails if the full one says otherwise.
pub fn agree(payload: &[u8]) -> bool {
    check(payload, 0..payload.len(), false, &fast::read(payload, KEY, false))
}

/// The same for a payload in a frame that goes on behind it, as the kernel sees it.
pub fn agree_in(frame: &[u8], payload: Range<usize>, affinity_call: bool) -> bool {
    let fast = read_in(frame, payload.clone(), affinity_call);
    check(frame, payload, affinity_call, &fast)
}

fn check(frame: &[u8], payload: Range<usize>, affinity_call: bool, fast: &Result<Marks, NoKey>) -> bool {
    let payload = &frame[payload];
    let full = full::read(payload).map(|message| from_message(message, affinity_call));
    match fast {
        Ok(marks) => assert_eq!(Ok(from_marks(frame, marks)), full, "{}", payload.escape_ascii()),
        Err(NoKey::NotSip | NoKey::KeepAlive) => {
            assert!(full.is_err(), "passed as no SIP, but keyable: {}", payload.escape_ascii());
        }
        Err(NoKey::Bounds | NoKey::Form | NoKey::Incomplete) => {}
    }
    fast.is_ok()
}

/// What the two must agree on.
#[derive(Debug, PartialEq, Eq)]
struct Answer<'a> {
    kind: Kind,
    status: u16,
    method: Method,
    call_id: &'a [u8],
    cseq: u32,
    branch: &'a [u8],
    keys: (u64, u64),
}

fn from_marks<'a>(frame: &'a [u8], marks: &Marks) -> Answer<'a> {
    let text = |at: u16, length: u16| &frame[usize::from(at)..usize::from(at) + usize::from(length)];
    let Some(kind) = marks.kind() else { panic!("no kind") };
    Answer {
        kind,
        status: marks.status(),
        method: marks.method(),
        call_id: text(marks.id(), marks.call_id_length()),
        cseq: marks.number(),
        branch: text(marks.branch(), marks.branch_length()),
        keys: (marks.request_key(), marks.reply_key()),
    }
}

fn from_message(message: full::Message<'_>, affinity_call: bool) -> Answer<'_> {
    let full::Message { kind, method, status, call_id, cseq, branch, .. } = message;
    let number = if affinity_call { 0 } else { cseq };
    let (request_key, reply_key) = hash::keys(KEY, call_id, number, branch.unwrap_or_default());
    Answer {
        kind,
        status: status.unwrap_or_default(),
        // Of a request the fast reader looks only whether it is an INVITE.
        method: if kind == Kind::Response || method == b"INVITE" { Method::of(method) } else { Method::Other },
        call_id,
        cseq,
        branch: branch.unwrap_or_default(),
        keys: (request_key, if branch.is_some() { reply_key } else { 0 }),
    }
}

fn read_in(frame: &[u8], payload: Range<usize>, affinity_call: bool) -> Result<Marks, NoKey> {
    let marks = Marks::default();
    let hash = fast::read_in(frame, payload, &marks, KEY, affinity_call)?;
    fast::reply_key(&frame, &marks, hash)?;
    Ok(marks)
}
