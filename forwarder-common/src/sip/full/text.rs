//! Pieces of text: words, white space, and what lies around a delimiter.

/// What stands before and after the first `byte`.
pub(super) fn split_at_byte(bytes: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|b| *b == byte)?;
    let (before, after) = bytes.split_at(at);
    Some((before, after.split_first()?.1))
}

/// The first run of bytes that are no white space, and what follows.
pub(super) fn word(bytes: &[u8]) -> (&[u8], &[u8]) {
    let bytes = trim_start(bytes);
    bytes.split_at(bytes.iter().position(|byte| is_white(*byte)).unwrap_or(bytes.len()))
}

pub(super) fn trim_start(bytes: &[u8]) -> &[u8] {
    let at = bytes.iter().position(|byte| !is_white(*byte)).unwrap_or(bytes.len());
    bytes.split_at(at).1
}

pub(super) const fn is_white(byte: u8) -> bool {
    byte <= b' '
}

pub(super) fn is(name: &[u8], wanted: &[u8]) -> bool {
    name.eq_ignore_ascii_case(wanted)
}
