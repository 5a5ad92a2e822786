//! What documents and comments name exists: files, functions, types, constants and tests. They refer to no text that is
//! not in the repository.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

mod files;
mod map;
mod names;
mod sources;
mod verbs;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

/// The project's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// All files with one of these extensions, by their names from the root, with their text.
fn texts(extensions: &[&str]) -> Vec<(String, String)> {
    let root = root();
    let (mut folders, mut found) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(path);
                }
            } else if extensions.iter().any(|extension| path.extension().is_some_and(|own| own == *extension)) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&root).unwrap().to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// Fails with what is wrong.
fn assert_right(what: &str, wrong: &[Wrong]) {
    let lines: Vec<_> = wrong.iter().map(|Wrong { file, line, said }| format!("{file}:{line}: {said}")).collect();
    assert!(lines.is_empty(), "{what}:\n{}", lines.join("\n"));
}

/// A place that says something wrong.
#[derive(Debug, PartialEq, Eq)]
struct Wrong {
    file: String,
    /// From 1.
    line: usize,
    said: String,
}
