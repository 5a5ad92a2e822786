//! The documents name files; this checks that the files exist.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders whose documents are not the project's.
const FOREIGN: [&str; 3] = ["target", "node_modules", "fuzz"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn documents(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if path.is_dir() {
            if !name.starts_with('.') && !FOREIGN.contains(&name.as_str()) {
                documents(&path, found);
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The files that a document names: targets of links, and words that begin with one of the project's folders.
fn named_files(text: &str, folders: &BTreeSet<String>) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        if !link.contains("://") && !link.starts_with('#') {
            named.insert(link.split('#').next().unwrap_or(link).to_owned());
        }
    }
    let separators = |c: char| c.is_whitespace() || "`()[]|\"',;".contains(c);
    for word in text.split(separators) {
        let word = word.trim_end_matches(['.', ':', '/']);
        // Patterns and lines of code are no names.
        if word.contains(['*', '{', '<', '=', '…']) || word.contains("::") || word.contains("://") {
            continue;
        }
        // `file.rs:120` and `file.md#part` name a place in a file.
        let file = word.split([':', '#']).next().unwrap_or(word);
        let in_folder = file.split_once('/').is_some_and(|(first, _)| folders.contains(first));
        let document = !file.contains('/') && file.len() > 3 && file.ends_with(".md");
        if in_folder || document {
            named.insert(file.to_owned());
        }
    }
    named
}

#[test]
fn every_file_that_a_document_names_exists() {
    let root = root();
    let folders: BTreeSet<String> = fs::read_dir(&root)
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        // What is built is not there in a clean clone.
        .filter(|name| name != "target" && name != ".git" && name != ".tools")
        .collect();
    let mut found = Vec::new();
    documents(&root, &mut found);
    assert!(found.iter().any(|path| path.ends_with("README.md")), "no README.md below {}", root.display());
    let mut missing = Vec::new();
    for document in found {
        let text = fs::read_to_string(&document).unwrap();
        let beside = document.parent().unwrap();
        for name in named_files(&text, &folders) {
            if !root.join(&name).exists() && !beside.join(&name).exists() {
                missing.push(format!("{}: {name}", document.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    assert!(missing.is_empty(), "documents name files that are not there:\n{}", missing.join("\n"));
}

#[test]
fn a_name_in_code_a_link_and_a_bare_document_are_all_seen() {
    let folders = BTreeSet::from(["docs".to_owned(), "xtask".to_owned()]);
    let text =
        "See `xtask/src/pins.rs:12`, [this](docs/a.md#part) and CHANGELOG.md. Not https://docs/x, `docs/*.md`, a/b.";
    let named = named_files(text, &folders);
    assert_eq!(named, ["CHANGELOG.md", "docs/a.md", "xtask/src/pins.rs"].map(String::from).into());
}
