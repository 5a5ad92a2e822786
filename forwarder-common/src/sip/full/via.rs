//! The branch of the topmost Via (RFC 3261 §20.42): the first of the values that one header may hold.

use super::text::{is, is_white, split_at_byte, trim_start};

/// The first parameter `branch=` of the first value of a Via header.
///
/// `None` if it is absent or empty, or if a quote or comment before it never ends.
pub(super) fn branch(value: &[u8]) -> Option<&[u8]> {
    let mut rest = next_parameter(value)?;
    loop {
        if let Some(branch) = as_branch(rest) {
            return (!branch.is_empty()).then_some(branch);
        }
        rest = next_parameter(rest)?;
    }
}

/// What follows the next `;` outside quotes and comments; `None` at a `,` or at the end.
fn next_parameter(bytes: &[u8]) -> Option<&[u8]> {
    let mut inside = Inside::default();
    for (at, byte) in bytes.iter().enumerate() {
        match (inside.step(*byte), byte) {
            (true, b';') => return bytes.get(at + 1..),
            (true, b',') => return None,
            _ => {}
        }
    }
    None
}

/// The value of a parameter that is named `branch` and has one: a token, so a quote in it is nothing special.
fn as_branch(parameter: &[u8]) -> Option<&[u8]> {
    let (name, rest) = trim_start(parameter).split_at_checked(6)?;
    let rest = trim_start(rest);
    if !is(name, b"branch") || rest.first() != Some(&b'=') {
        return None;
    }
    let value = trim_start(split_at_byte(rest, b'=')?.1);
    let end = value.iter().position(|byte| is_white(*byte) || matches!(byte, b';' | b','));
    Some(value.split_at(end.unwrap_or(value.len())).0)
}

/// Whether a scan is inside a quoted string or a comment (RFC 3261 §25.1).
#[derive(Default)]
struct Inside {
    quoted: bool,
    escaped: bool,
    comments: usize,
}

impl Inside {
    /// Takes one byte; true if it stands outside both.
    fn step(&mut self, byte: u8) -> bool {
        if self.escaped {
            self.escaped = false;
            return false;
        }
        match byte {
            b'\\' if self.quoted || self.comments > 0 => self.escaped = true,
            b'"' if self.comments == 0 => self.quoted = !self.quoted,
            b'(' if !self.quoted => self.comments += 1,
            b')' if !self.quoted => self.comments = self.comments.saturating_sub(1),
            _ => return !self.quoted && self.comments == 0,
        }
        false
    }
}
