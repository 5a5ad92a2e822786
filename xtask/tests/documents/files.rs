//! Files that documents name.

use std::collections::BTreeSet;
use std::fs;

use crate::{root, texts};

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
    let found = texts(&["md"]);
    assert!(found.iter().any(|(name, _)| name == "README.md"), "no README.md below {}", root.display());
    let mut missing = Vec::new();
    for (document, text) in found {
        let file = root.join(&document);
        let beside = file.parent().unwrap();
        for name in named_files(&text, &folders) {
            if !root.join(&name).exists() && !beside.join(&name).exists() {
                missing.push(format!("{document}: {name}"));
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
