//! Start lines (RFC 3261 §7.1, §7.2): any version of SIP, blanks doubled or trailing, blanks inside the Request-URI.

use super::{Unkeyable, is, is_white, split_at_byte, trim_start, word};

/// What the start line says.
pub(super) enum Start<'a> {
    /// A request with its method.
    Request(&'a [u8]),
    /// A response with its status code.
    Response(u16),
}

/// Reads a start line with or without its line end.
pub(super) fn read(line: &[u8]) -> Result<Start<'_>, Unkeyable> {
    let (first, rest) = word(line);
    if is_version(first) {
        return status(trim_start(rest)).map(Start::Response).ok_or(Unkeyable::StartLine);
    }
    let line = trim_end(rest);
    let uri_end = line.iter().rposition(|byte| is_white(*byte)).map_or(0, |at| at + 1);
    let (uri, version) = line.split_at(uri_end);
    if !is_version(version) {
        return Err(Unkeyable::NotSip);
    }
    if first.iter().all(|byte| is_token(*byte)) && !trim_start(uri).is_empty() {
        Ok(Start::Request(first))
    } else {
        Err(Unkeyable::StartLine)
    }
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

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| !is_white(*byte)).map_or(0, |at| at + 1);
    bytes.split_at(end).0
}
