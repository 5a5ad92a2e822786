//! The full reader: every form that RFC 3261 allows and common stacks send, over a byte slice, in linear time.
//!
//! It is the slow path's reader and the judge of the fast one: whenever [`super::fast`] answers, this gives the same.
//! White space is every byte up to 0x20, so that NUL and a bare CR end a value as a blank does; only LF ends a line.

mod start;
mod text;
mod unkeyable;
mod via;

pub use unkeyable::Unkeyable;

use self::text::{is, split_at_byte, word};
use crate::sip::Kind;

/// What makes the keys of a message, and what the verdict needs of it. All slices lie in the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Kind of message; ACK and CANCEL by the request line.
    pub kind: Kind,
    /// Method of the request line; of a response, the method of its CSeq. Case is kept.
    pub method: &'a [u8],
    /// Status code of a response, 0..=999.
    pub status: Option<u16>,
    /// The first Call-ID up to white space, never empty; case is kept.
    pub call_id: &'a [u8],
    /// The number of the first CSeq.
    pub cseq: u32,
    /// The method of the first CSeq, empty if there is none.
    pub cseq_method: &'a [u8],
    /// The branch of the topmost Via, never empty.
    pub branch: Option<&'a [u8]>,
}

/// Where STUN has its cookie, and the cookie: it keeps its messages apart from those of other protocols on the port.
const STUN_COOKIE: (usize, &[u8]) = (4, &0x2112_a442_u32.to_be_bytes());

/// Reads one UDP payload.
///
/// # Errors
/// Says why the payload has no key. A message without a Via or without a branch has one.
pub fn read(payload: &[u8]) -> Result<Message<'_>, Unkeyable> {
    //= https://www.rfc-editor.org/rfc/rfc8489#section-5
    //# The Magic Cookie field MUST contain the fixed value 0x2112A442 in network byte order.
    let (at, cookie) = STUN_COOKIE;
    if payload.first() == Some(&0) && payload.get(at..).is_some_and(|rest| rest.starts_with(cookie)) {
        return Err(Unkeyable::NotSip);
    }
    // Keep-alives may lead a message (RFC 3261 §7.5).
    let start = payload.iter().position(|byte| !matches!(byte, b'\r' | b'\n' | b' ' | b'\t' | 0));
    let payload = payload.split_at(start.ok_or(Unkeyable::KeepAlive)?).1;
    let (line, rest) = split_line(payload);
    let start = start::read(line)?;
    let headers = Headers::read(rest);
    let call_id = headers.call_id.map(|value| word(value).0).unwrap_or_default();
    if call_id.is_empty() {
        return Err(Unkeyable::MissingCallId);
    }
    let (cseq, cseq_method) = cseq(headers.cseq.ok_or(Unkeyable::MissingCseq)?)?;
    let (kind, method, status) = match start {
        start::Start::Request(method) => (request_kind(method), method, None),
        start::Start::Response(status) => (Kind::Response, cseq_method, Some(status)),
    };
    let branch = headers.via.and_then(via::branch);
    Ok(Message { kind, method, status, call_id, cseq, cseq_method, branch })
}

/// Methods are case-sensitive (RFC 3261 §7.1).
fn request_kind(method: &[u8]) -> Kind {
    match method {
        b"ACK" => Kind::Ack,
        b"CANCEL" => Kind::Cancel,
        _ => Kind::Request,
    }
}

/// The values of the first header of each needed name, with their folds as they are.
#[derive(Default)]
struct Headers<'a> {
    call_id: Option<&'a [u8]>,
    cseq: Option<&'a [u8]>,
    via: Option<&'a [u8]>,
}

impl<'a> Headers<'a> {
    /// Reads up to the empty line: what follows is the body, which may hold header text of its own.
    fn read(mut rest: &'a [u8]) -> Self {
        let mut found = Self::default();
        while !rest.is_empty() && !found.is_complete() {
            let (line, after) = split_header(rest);
            if line.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
                break;
            }
            found.note(line);
            rest = after;
        }
        found
    }

    fn is_complete(&self) -> bool {
        self.call_id.is_some() && self.cseq.is_some() && self.via.is_some()
    }

    fn note(&mut self, line: &'a [u8]) {
        let Some((name, value)) = split_at_byte(line, b':') else { return };
        //= https://www.rfc-editor.org/rfc/rfc3261#section-25.1
        //# HCOLON = *( SP / HTAB ) ":" SWS
        let slot = match trim_blanks_end(name) {
            name if is(name, b"call-id") || is(name, b"i") => &mut self.call_id,
            name if is(name, b"cseq") => &mut self.cseq,
            name if is(name, b"via") || is(name, b"v") => &mut self.via,
            _ => return,
        };
        slot.get_or_insert(value);
    }
}

/// The number and the method of a CSeq value.
fn cseq(value: &[u8]) -> Result<(u32, &[u8]), Unkeyable> {
    let (digits, rest) = word(value);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Unkeyable::CseqForm);
    }
    let mut number: u32 = 0;
    for digit in digits {
        let more = number.checked_mul(10).and_then(|tens| tens.checked_add(u32::from(digit & 0xf)));
        number = more.ok_or(Unkeyable::CseqRange)?;
    }
    Ok((number, word(rest).0))
}

/// The first line with its LF, and what follows.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    bytes.split_at(end)
}

/// The first line with the lines that continue it (RFC 3261 §7.3.1), and what follows. An empty line has none.
fn split_header(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (line, mut rest) = split_line(bytes);
    if !line.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
        while matches!(rest.first(), Some(b' ' | b'\t')) {
            rest = split_line(rest).1;
        }
    }
    bytes.split_at(bytes.len() - rest.len())
}

fn trim_blanks_end(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |at| at + 1);
    bytes.split_at(end).0
}
