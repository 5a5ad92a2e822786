//! The code that names are looked up in, apart from its comments.

use std::collections::{BTreeMap, BTreeSet};

use crate::texts;

/// Words behind which a name is defined.
const KEYWORDS: [&str; 10] =
    ["fn", "struct", "enum", "trait", "type", "const", "static", "mod", "union", "macro_rules!"];

/// One file of code.
pub(crate) struct Source {
    /// Its name from the root.
    pub(crate) file: String,
    /// Names that it defines, struct fields among them.
    defined: BTreeSet<String>,
    /// Types that it has methods of.
    extended: BTreeSet<String>,
    /// All words of its code.
    words: BTreeSet<String>,
    /// Its comments by lines, from 1.
    pub(crate) comments: Vec<(usize, String)>,
}

/// All of them.
pub(crate) struct Sources {
    pub(crate) files: Vec<Source>,
    /// Words of settings, scripts and scenarios.
    others: BTreeSet<String>,
}

impl Sources {
    /// Reads those of the project.
    pub(crate) fn read() -> Self {
        // These tests name what is not there.
        let files = texts(&["rs"]).into_iter().filter(|(file, _)| !file.starts_with("xtask/tests/documents/"));
        let files = files.map(|(file, text)| Source::read(file, &text)).collect();
        let others =
            texts(&["toml", "cfg", "xml"]).iter().flat_map(|(_, text)| words(text)).map(String::from).collect();
        Self { files, others }
    }

    /// Whether the code has this word anywhere.
    pub(crate) fn has_word(&self, word: &str) -> bool {
        self.others.contains(word) || self.files.iter().any(|source| source.words.contains(word))
    }

    /// Whether a function, type, constant, module or field of this name is defined.
    pub(crate) fn defines(&self, name: &str) -> bool {
        self.files.iter().any(|source| source.defined.contains(name))
    }

    /// Whether a module, a crate or a type `owner` has `name`.
    pub(crate) fn has_in(&self, owner: &str, name: &str) -> bool {
        self.files.iter().filter(|source| source.is_of(owner)).any(|source| source.has(name))
    }
}

impl Source {
    fn read(file: String, text: &str) -> Self {
        let (mut code, mut comments) = (String::new(), Vec::new());
        for (index, line) in text.lines().enumerate() {
            let (before, comment) = parted(line);
            code.push_str(before);
            code.push('\n');
            if let Some(comment) = comment {
                comments.push((index + 1, comment.to_owned()));
            }
        }
        let tokens: Vec<&str> = code.split_whitespace().collect();
        let (mut defined, mut extended) = (BTreeSet::new(), BTreeSet::new());
        for pair in tokens.windows(2) {
            let [first, second] = pair else { continue };
            let name = words(second).next().unwrap_or_default();
            if KEYWORDS.contains(first) {
                defined.insert(name.to_owned());
            }
            if matches!(*first, "impl" | "for") || first.starts_with("impl<") {
                extended.insert(name.to_owned());
            }
            if let Some(field) = first.strip_suffix(':') {
                defined.extend(words(field).last().map(String::from));
            }
        }
        let words = words(&code).map(String::from).collect();
        Self { file, defined, extended, words, comments }
    }

    /// Whether this is the file of a module or a crate, or has a type or methods of it.
    fn is_of(&self, owner: &str) -> bool {
        let mut folders = self.file.trim_end_matches(".rs").split('/');
        folders.any(|part| part == owner || part.replace('-', "_") == owner)
            || self.extended.contains(owner)
            || self.defined.contains(owner)
    }

    /// Whether it defines a name; a type's variants are words that begin with a capital.
    fn has(&self, name: &str) -> bool {
        self.defined.contains(name) || name.starts_with(char::is_uppercase) && self.words.contains(name)
    }
}

/// A line's code, and the comment behind it.
fn parted(line: &str) -> (&str, Option<&str>) {
    let is_comment = |at: &usize| {
        let before = &line[..*at];
        let quotes = before.matches('"').count() - before.matches("\\\"").count() - before.matches("'\"'").count();
        quotes.is_multiple_of(2) && (before.is_empty() || before.ends_with(' '))
    };
    let at = line.match_indices("//").map(|(at, _)| at).find(is_comment);
    at.map_or((line, None), |at| (&line[..at], Some(&line[at..])))
}

/// The words of a text that may be names.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// What stands between backticks in each line, by lines from 1.
pub(crate) fn spans<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Vec<(usize, &'a str)> {
    lines.flat_map(|(number, line)| line.split('`').skip(1).step_by(2).map(move |span| (number, span))).collect()
}

/// The crates of the lock files that other people write, as code names them.
pub(crate) fn foreign_crates() -> BTreeSet<String> {
    let own: BTreeMap<_, _> = texts(&["toml"]).into_iter().collect();
    let locks = texts(&["lock"]);
    let names = locks.iter().flat_map(|(_, text)| text.lines()).filter_map(|line| line.strip_prefix("name = "));
    let names = names.map(|name| name.trim_matches('"').to_owned());
    names.filter(|name| !own.contains_key(&format!("{name}/Cargo.toml"))).map(|name| name.replace('-', "_")).collect()
}
