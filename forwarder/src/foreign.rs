//! Text that others have written, and the one way out for it.
//!
//! Close reasons of peers and strangers, names in certificates, header fields of packets, files: any of it may hold
//! escapes that drive a terminal, lines that look like the daemon's own, or marks that turn the order of letters
//! around. Where such text comes in it is made [`Foreign`], short and in one line. What goes out, to a terminal, the
//! log or as JSON, passes [`line()`] or [`Harmless`] as well, whoever has written it.

use std::{
    fmt::{self, Write as _},
    io,
};

/// Characters that foreign text keeps. A sentence of ours fits.
const KEPT: usize = 300;
/// Characters of a line that goes out: several pieces of foreign text within a sentence.
const LINE: usize = 2000;

/// Text of others in one line of at most 300 characters, without any that a terminal acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign(String);

impl Foreign {
    /// Makes it harmless.
    #[must_use]
    pub fn new(text: impl fmt::Display) -> Self {
        // Of what is longer not even a copy is made.
        let mut kept = Kept { text: String::new(), left: KEPT, cut: false };
        // An error is text that is longer.
        let _ = write!(kept, "{text}");
        if kept.cut {
            kept.text.push('…');
        }
        Self(escaped(&kept.text))
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Foreign> for String {
    fn from(Foreign(text): Foreign) -> Self {
        text
    }
}

/// The beginning of a text.
struct Kept {
    text: String,
    left: usize,
    cut: bool,
}

impl fmt::Write for Kept {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            if self.left == 0 {
                self.cut = true;
                return Err(fmt::Error);
            }
            self.left -= 1;
            self.text.push(letter);
        }
        Ok(())
    }
}

/// A line for a terminal or the log: one, whatever is in it, and not endless.
#[must_use]
pub fn line(text: &str) -> String {
    let text = escaped(text);
    match text.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// The text without characters that a terminal acts on; ends of lines count as such.
#[must_use]
pub fn escaped(text: &str) -> String {
    clean(text, is_harmless)
}

/// Whether a character is shown and does nothing else: it is no control, turns no direction, and has a width.
fn is_harmless(letter: char) -> bool {
    !letter.is_control()
        && !matches!(letter,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// Writes the rest as JSON would, so that a clean JSON text stays the same value.
fn clean(text: &str, is_good: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            letter if is_good(letter) => out.push(letter),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out
}

/// Lets out what a terminal only shows, and ends of lines. JSON keeps its meaning.
#[derive(Debug)]
pub struct Harmless<W>(pub W);

impl<W: io::Write> io::Write for Harmless<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.write_all(clean(&text, |letter| letter == '\n' || is_harmless(letter)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Clears the screen, sets the title, forges a row, turns the direction, hides letters.
    const EVIL: &str = "a\x1b[2J\x1b]0;x\x07\r\n  7  10.9.9.9  up\u{9b}1m\u{202e}\u{200b}\u{e0041}\u{2028}\0é";

    fn is_one_harmless_line(text: &str) -> bool {
        text.chars().all(is_harmless)
    }

    #[test]
    fn nothing_of_foreign_text_acts_and_what_is_shown_stays() {
        let text = Foreign::new(EVIL).to_string();
        assert!(is_one_harmless_line(&text), "{text:?}");
        assert!(text.starts_with("a\\u001b[2J\\u001b]0;x\\u0007\\r\\n  7  10.9.9.9  up\\u009b1m\\u202e"), "{text}");
        assert!(text.ends_with("\\udb40\\udc41\\u2028\\u0000é"), "{text}");
        assert_eq!(Foreign::new("node 7 höher, 日本").to_string(), "node 7 höher, 日本");
    }

    #[test]
    fn foreign_text_and_lines_are_bounded() {
        let long = "x".repeat(100_000);
        assert_eq!(Foreign::new(&long).to_string(), "x".repeat(KEPT) + "…");
        assert_eq!(Foreign::new("x".repeat(KEPT)).to_string(), "x".repeat(KEPT));
        assert_eq!(line(&long).chars().count(), LINE + 1);
        assert!(line(&"\x1b".repeat(100_000)).chars().count() <= LINE + 1);
    }

    #[test]
    fn json_that_goes_out_says_the_same_and_acts_as_little() {
        let mut out = Harmless(Vec::new());
        serde_json::to_writer(&mut out, &EVIL).unwrap();
        out.write_all(b"\n").unwrap();
        let text = String::from_utf8(out.0).unwrap();
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), EVIL);
        assert!(is_one_harmless_line(text.trim_end_matches('\n')), "{text:?}");
    }
}
