//! Start lines (RFC 3261 §7.1, §7.2): any version of SIP, blanks doubled or trailing, blanks inside the Request-URI.

use super::{
    text::{is, is_white, split_at_byte},
    unkeyable::Unkeyable,
};

/// What the start line says.
pub(super) enum Start<'a> {
    /// A request with its method.
    Request(&'a [u8]),
    /// A response with its status code.
    Response(u16),
}

/// Reads a start line with or without its line end.
///
/// A line of text that ends in a version of SIP is a request, be its method ever so odd: that is for the proxy to
/// judge. What does not begin with a printable byte is no text: RTP, STUN, DTLS.
pub(super) fn read(line: &[u8]) -> Result<Start<'_>, Unkeyable> {
    if !line.first().is_some_and(u8::is_ascii_graphic) {
        return Err(Unkeyable::NotSip);
    }
    let line = trim_end(line);
    //= https://www.rfc-editor.org/rfc/rfc3261#section-7.1
    //# Request-Line  =  Method SP Request-URI SP SIP-Version CRLF
    let Some((first, rest)) = split_at_byte(line, b' ') else { return Err(neither(line)) };
    let last = rest.rsplit(|byte| is_white(*byte)).next().unwrap_or_default();
    // `SIP/2.0 200 SIP/2.0` is a response; the method of a request is not this version.
    if is_version(last) && first != b"SIP/2.0" {
        return Ok(Start::Request(first));
    }
    if !is_version(first) {
        return Err(Unkeyable::NotSip);
    }
    status(rest).map(Start::Response).ok_or(Unkeyable::StartLine)
}

fn neither(line: &[u8]) -> Unkeyable {
    if is_version(line) { Unkeyable::StartLine } else { Unkeyable::NotSip }
}

/// Three digits that no fourth follows.
fn status(text: &[u8]) -> Option<u16> {
    let (code, rest) = text.split_at_checked(3)?;
    if rest.first().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    code.iter().try_fold(0, |code, byte| byte.is_ascii_digit().then_some(code * 10 + u16::from(byte & 0xf)))
}

/// `SIP/` DIGITS `.` DIGITS, in any case (RFC 3261 §7.1).
fn is_version(text: &[u8]) -> bool {
    let Some((name, numbers)) = text.split_at_checked(4) else { return false };
    let Some((major, minor)) = split_at_byte(numbers, b'.') else { return false };
    is(name, b"SIP/") && [major, minor].iter().all(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit))
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| !is_white(*byte)).map_or(0, |at| at + 1);
    bytes.split_at(end).0
}
