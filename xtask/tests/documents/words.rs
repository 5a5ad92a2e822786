//! Words that refer to a text that is not in the repository.

use crate::{Wrong, assert_right, texts};

/// Documents that people have read who wrote the code, and who reads it has not.
const ELSEWHERE: [&str; 9] =
    ["DESIGN", "the design", "of_the_design", "the issue", "this issue", "issue's", "as asked", "house.md", "STYLE.md"];

/// The places of a line that say one of [`ELSEWHERE`], whatever the case of its first letter.
fn said(line: &str) -> Vec<&'static str> {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    let is_said = |phrase: &&&str| {
        let (first, rest) = phrase.split_at(1);
        let forms = [phrase.to_string(), format!("{}{rest}", first.to_uppercase())];
        forms.iter().flat_map(|form| line.match_indices(form.as_str())).any(|(at, form)| {
            let (before, behind) = (&line[..at], &line[at + form.len()..]);
            // A name of several words holds others.
            let is_part = !form.contains('_') && (before.ends_with(is_letter) || behind.starts_with(is_letter));
            // "as fast as asked for" asks for nothing.
            !is_part && !behind.starts_with(" for")
        })
    };
    ELSEWHERE.iter().filter(is_said).copied().collect()
}

#[test]
fn nothing_refers_to_a_text_that_is_not_in_the_repository() {
    let mut all = Vec::new();
    for (file, text) in texts(&["rs", "md", "toml", "cfg", "xml"]) {
        // This list is the one place that may.
        if file.starts_with("xtask/tests/documents/") {
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            let wrong = |phrase: &str| Wrong { file: file.clone(), line: index + 1, said: phrase.to_owned() };
            all.extend(said(line).into_iter().map(wrong));
        }
    }
    assert_right("these refer to texts that are not in the repository", &all);
}

#[test]
fn a_reference_is_seen_at_the_beginning_of_a_sentence_and_not_within_other_words() {
    assert_eq!(said("The design says so (DESIGN section 4)."), ["DESIGN", "the design"]);
    assert_eq!(said("fn the_table_of_the_design_holds() {"), ["of_the_design"]);
    assert_eq!(said("what it was asked for, as fast as asked for; the designs; REDESIGN"), [""; 0]);
}
