//! Breaks comments and prose anew: only a paragraph that has too long a line, and only where it is plain text.

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// Comments that have a line of their own are prose.
    Rust,
    /// All is prose but code, tables and headings.
    Markdown,
}

/// A line taken apart: what each line of its paragraph begins with, and the text behind it.
#[derive(Clone, Copy)]
struct Line<'a> {
    /// Blanks and the marks of a comment.
    margin: &'a str,
    /// The rest, without the blank that parts it from the marks.
    text: &'a str,
    whole: &'a str,
}

/// The text with each paragraph within `columns` where its words allow it.
pub(super) fn wrap(text: &str, language: Language, columns: usize) -> String {
    let lines: Vec<Line<'_>> = text.lines().map(|line| Line::of(line, language)).collect();
    let mut out = String::with_capacity(text.len());
    let mut is_code = false;
    let mut rest = lines.as_slice();
    while let Some((first, behind)) = rest.split_first() {
        is_code ^= first.is_fence();
        let length = if is_code { 0 } else { paragraph(rest, language) };
        let (lines, next) = if length == 0 { (std::slice::from_ref(first), behind) } else { rest.split_at(length) };
        if length > 0 && lines.iter().any(|line| line.whole.chars().count() > columns) {
            fill(lines, columns, &mut out);
        } else {
            for line in lines {
                out.push_str(line.whole);
                out.push('\n');
            }
        }
        rest = next;
    }
    out
}

impl<'a> Line<'a> {
    fn of(whole: &'a str, language: Language) -> Self {
        let blanks = whole.len() - whole.trim_start().len();
        let marks = match language {
            Language::Markdown => 0,
            Language::Rust => {
                let code = whole.split_at(blanks).1;
                ["//!", "///", "//"].iter().find(|marks| code.starts_with(**marks)).map_or(0, |marks| marks.len())
            }
        };
        let at = if language == Language::Rust { blanks + marks } else { 0 };
        let (margin, text) = whole.split_at(at);
        Self { margin, text: if marks > 0 { text.strip_prefix(' ').unwrap_or(text) } else { text }, whole }
    }

    fn is_fence(&self) -> bool {
        self.text.trim_start().starts_with("```")
    }

    /// Whether it is text that may go on in the next line.
    fn is_prose(&self, language: Language) -> bool {
        let text = self.text.trim_start();
        let is_comment = language == Language::Markdown || self.margin.ends_with(['/', '!']);
        let is_link = text.contains("://") && !text.contains(' ');
        // A citation of an RFC has its mark right behind the slashes.
        let is_marked = text.is_empty() || text.starts_with(['#', '|', '<', '>', '=']) || is_link;
        is_comment && !is_marked && !self.is_fence() && !self.text.ends_with("  ") && !self.text.ends_with('\\')
    }

    /// Blanks before the text, and those with the mark of a list's item, if it begins one.
    fn indent(&self) -> (usize, Option<usize>) {
        let text = self.text.trim_start();
        let blanks = self.text.len() - text.len();
        let mark = text.split(' ').next().unwrap_or_default();
        (blanks, is_mark(mark).then_some(blanks + mark.len() + 1))
    }
}

/// Whether a word at the beginning of a line would begin a list's item.
fn is_mark(word: &str) -> bool {
    let number = word.strip_suffix(['.', ')']);
    matches!(word, "-" | "*" | "+") || number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a word stays behind the one before it: it would begin something at the beginning of a line, or is its unit.
fn is_bound(word: &str) -> bool {
    is_mark(word) || word.starts_with(['#', '|', '<', '>', '=', '%', '×', '±', '–'])
}

/// How many lines the paragraph has that begins here; 0 where there is none.
fn paragraph(lines: &[Line<'_>], language: Language) -> usize {
    let Some((first, behind)) = lines.split_first() else { return 0 };
    let (blanks, item) = first.indent();
    // Four blanks are code, but in a list's item.
    if !first.is_prose(language) || item.is_none() && blanks >= 4 {
        return 0;
    }
    let goes_on =
        |line: &&Line<'_>| line.is_prose(language) && line.margin == first.margin && line.indent().1.is_none();
    1 + behind.iter().take_while(goes_on).count()
}

/// Writes the words of a paragraph, as many to a line as it holds.
fn fill(lines: &[Line<'_>], columns: usize, out: &mut String) {
    let Some(first) = lines.first() else { return };
    let (blanks, item) = first.indent();
    let begin = item.unwrap_or(blanks);
    let hanging = lines.get(1).map_or(begin, |second| second.indent().0);
    let margin = if first.margin.trim().is_empty() { first.margin.to_owned() } else { format!("{} ", first.margin) };
    let (mark, _) = first.text.split_at_checked(begin).unwrap_or((first.text, ""));
    let words = words(lines, mark);
    let mut line = format!("{margin}{mark}");
    let mut is_empty = true;
    for (index, word) in words.iter().enumerate() {
        let with = words.get(index + 1).filter(|next| is_bound(next)).map_or(0, |next| next.chars().count() + 1);
        if !is_empty && line.chars().count() + 1 + word.chars().count() + with > columns {
            out.push_str(&line);
            out.push('\n');
            line = format!("{margin}{:hanging$}", "");
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    out.push_str(&line);
    out.push('\n');
}

/// The words of a paragraph behind the mark of its item; what stands between two backticks is one.
fn words(lines: &[Line<'_>], mark: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut is_open = false;
    let texts = lines.iter().enumerate().map(|(index, line)| match index {
        0 => line.text.strip_prefix(mark).unwrap_or(line.text),
        _ => line.text,
    });
    for word in texts.flat_map(str::split_whitespace) {
        match words.last_mut().filter(|_| is_open) {
            Some(last) => {
                last.push(' ');
                last.push_str(word);
            }
            None => words.push(word.to_owned()),
        }
        is_open ^= word.matches('`').count() % 2 == 1;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust(text: &str) -> String {
        wrap(text, Language::Rust, 20)
    }

    fn markdown(text: &str) -> String {
        wrap(text, Language::Markdown, 20)
    }

    #[test]
    fn a_comment_with_a_long_line_is_filled_anew_and_its_neighbours_stay() {
        let text = "    /// one two three four\n    /// five\n    let text = \"a long line of code\";\n    // short\n";
        let after = "    /// one two\n    /// three four\n    /// five\n\
            \x20   let text = \"a long line of code\";\n    // short\n";
        assert_eq!(rust(text), after);
        assert_eq!(rust(after), after);
    }

    #[test]
    fn paragraphs_and_kinds_of_comments_are_not_mixed() {
        let text = "//! one two three four five\n//!\n//! six\n/// seven\n// eight\n";
        assert_eq!(rust(text), "//! one two three\n//! four five\n//!\n//! six\n/// seven\n// eight\n");
    }

    #[test]
    fn items_of_lists_hang_and_stay_apart() {
        let text = "- one two three four five\n  six\n- seven\n1. one two three four five\n";
        assert_eq!(markdown(text), "- one two three four\n  five six\n- seven\n1. one two three\n   four five\n");
    }

    #[test]
    fn what_is_no_prose_stays_as_it_is() {
        let text = "| one two three four five |\n# one two three four five\n```\none two three four five\n```\n\
            \n    one two three four five\nhttps://one.two/three/four\n";
        assert_eq!(markdown(text), text);
        let cited = "//# one two three four five six\n//= https://one.two/three/four\n";
        assert_eq!(rust(cited), cited);
    }

    #[test]
    fn code_between_backticks_is_not_broken_and_no_item_begins_by_chance() {
        assert_eq!(markdown("one two `three 4 five` six\n"), "one two\n`three 4 five` six\n");
        assert_eq!(markdown("one two three seven - six\n"), "one two three\nseven - six\n");
        assert_eq!(markdown("one two three of 90 % six\n"), "one two three of\n90 % six\n");
    }
}
