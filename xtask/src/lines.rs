//! `cargo xtask lines`: no line of Rust and no prose in a document is longer than a screen is wide, and no function is
//! longer than one or two screens are high. With `--rewrap` comments and prose are broken anew; code, strings and
//! tables are left to whoever wrote them.

mod wrap;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use self::wrap::Language;
use crate::project::Project;
use crate::run::say;

/// Columns of the longest line, as in `rustfmt.toml`.
const COLUMNS: usize = 120;
/// Lines of the longest function, from its name to its end.
const FUNCTION_LINES: usize = 70;
/// Longer ones, each in its file: they do nothing but say what a test is compared with.
const FIXTURES: [(&str, &str); 1] = [("forwarder/src/status/text.rs", "busy")];

/// Fails where a line or a function is too long, and names it.
pub(crate) fn check(project: &Project) -> Result<()> {
    say("line lengths");
    let root = project.root();
    let mut found = Vec::new();
    for (name, language) in files(root)? {
        let text = read(&root.join(&name))?;
        let lines = long_lines(&text, language);
        found.extend(lines.into_iter().map(|(number, columns)| format!("{name}:{number}: {columns} columns")));
        if language == Language::Rust {
            let functions = long_functions(&text);
            let functions = functions.into_iter().filter(|long| !FIXTURES.contains(&(name.as_str(), long.name)));
            found.extend(functions.map(|Long { name: function, number, lines }| {
                format!("{name}:{number}: `{function}` has {lines} lines")
            }));
        }
    }
    found.iter().try_for_each(|line| writeln!(io::stdout(), "{line}")).context("write a line")?;
    if !found.is_empty() {
        bail!(
            "keep lines within {COLUMNS} columns and functions within {FUNCTION_LINES} lines: {} are longer; \
             hint: `cargo xtask lines --rewrap FILE` breaks comments and prose",
            found.len()
        );
    }
    Ok(())
}

/// Breaks the paragraphs anew that have too long a line: of these files, or of all.
pub(crate) fn rewrap(project: &Project, only: &[PathBuf]) -> Result<()> {
    let root = project.root();
    for (name, language) in files(root)? {
        let file = root.join(&name);
        if !only.is_empty() && !only.iter().any(|wanted| root.join(wanted) == file) {
            continue;
        }
        let text = read(&file)?;
        let wrapped = wrap::wrap(&text, language, COLUMNS);
        if wrapped != text {
            fs::write(&file, &wrapped).with_context(|| format!("write {}", file.display()))?;
            let left = long_lines(&wrapped, language).len();
            say(format_args!("{name}: {left} long lines are left"));
        }
    }
    Ok(())
}

/// Numbers and columns of the lines that are too long.
fn long_lines(text: &str, language: Language) -> Vec<(usize, usize)> {
    let mut is_code = false;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if language == Language::Markdown {
            is_code ^= trimmed.starts_with("```");
            let is_bare_link = trimmed.contains("://") && !trimmed.trim_end().contains(' ');
            if is_code || trimmed.starts_with('|') || is_bare_link {
                continue;
            }
        }
        let columns = line.chars().count();
        if columns > COLUMNS {
            found.push((index + 1, columns));
        }
    }
    found
}

/// A function that is too long.
#[derive(Debug, PartialEq, Eq)]
struct Long<'a> {
    name: &'a str,
    /// Of its first line, from 1.
    number: usize,
    lines: usize,
}

/// The functions of a source as rustfmt leaves it that are too long: one ends with the next brace at its own depth.
fn long_functions(text: &str) -> Vec<Long<'_>> {
    let lines: Vec<&str> = text.lines().collect();
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    for (index, &first) in lines.iter().enumerate() {
        let Some(name) = function(first) else { continue };
        let is_end = |line: &&&str| depth(line) == depth(first) && line.ends_with([';', '}']);
        let length = 1 + lines.iter().skip(index).take_while(|line| !is_end(line)).count();
        if length > FUNCTION_LINES {
            found.push(Long { name, number: index + 1, lines: length });
        }
    }
    found
}

/// The name of the function that begins in a line.
fn function(line: &str) -> Option<&str> {
    const BEFORE: [&str; 6] = ["pub", "const", "async", "unsafe", "extern", "\"C\""];
    let is_before = |word: &&str| BEFORE.contains(word) || word.starts_with("pub(");
    let mut words = line.split_whitespace().skip_while(is_before);
    (words.next()? == "fn").then_some(words.next()?.split(['(', '<']).next()?)
}

/// All files of Rust and all documents below a folder, by their names from there.
fn files(root: &Path) -> Result<Vec<(String, Language)>> {
    let (mut folders, mut found) = (vec![root.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            let is_foreign = name.starts_with('.') || name == "target" || name.ends_with("/target");
            let language = match path.extension().and_then(|extension| extension.to_str()) {
                Some("rs") => Some(Language::Rust),
                Some("md") => Some(Language::Markdown),
                _ => None,
            };
            match language {
                _ if is_foreign => {}
                _ if path.is_dir() => folders.push(path),
                Some(language) => found.push((name, language)),
                None => {}
            }
        }
    }
    found.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_rust_every_line_counts_and_in_documents_only_prose() {
        let long = "word ".repeat(30);
        let text = format!("{long}\n| {long} |\n```\n{long}\n```\n{long}\nhttps://a/{}\n", "b".repeat(120));
        let numbers = |language| long_lines(&text, language).into_iter().map(|(number, _)| number).collect::<Vec<_>>();
        assert_eq!(numbers(Language::Rust), [1, 2, 4, 6, 7]);
        assert_eq!(numbers(Language::Markdown), [1, 6]);
    }

    #[test]
    fn a_function_is_as_long_as_from_its_name_to_its_brace() {
        let body = |lines: usize| "        word();\n".repeat(lines);
        let signature = "    pub(crate) async fn long<T>(\n        t: T,\n    ) {\n";
        let method = |lines: usize| format!("{signature}{}    }}\n", body(lines));
        let declared = format!("trait A {{\n    fn a(\n        t: T,\n    );\n    fn b(&self);\n{}", body(100));
        let text = |lines: usize| format!("fn short() {{}}\n{declared}impl A {{\n{}}}\n// fn none\n", method(lines));
        assert_eq!(long_functions(&text(FUNCTION_LINES - 4)), []);
        let text = text(FUNCTION_LINES - 3);
        assert_eq!(long_functions(&text), [Long { name: "long", number: 108, lines: FUNCTION_LINES + 1 }]);
    }

    #[test]
    fn a_line_is_as_long_as_it_has_characters() {
        assert_eq!(long_lines(&"é".repeat(COLUMNS), Language::Rust), []);
        assert_eq!(long_lines(&"é".repeat(COLUMNS + 1), Language::Rust), [(1, COLUMNS + 1)]);
    }
}
