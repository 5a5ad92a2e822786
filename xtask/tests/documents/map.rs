//! The code map of ARCHITECTURE.md names every source file of the crates that the forwarder is made of.

use std::collections::BTreeSet;
use std::fs;

use crate::{root, texts};

/// What the map need not name: what only lists a crate's modules, and tests beside the code.
const UNNAMED: [&str; 4] = ["lib.rs", "main.rs", "tests.rs", "tests"];

/// The files that a table of the map names, and the folders that it means by `file.rs` and below.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
}

impl Named {
    fn of(text: &str) -> Self {
        let mut named = Self::default();
        let rows = text.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
        for row in rows {
            let parts: Vec<&str> = row.split('`').collect();
            for pair in parts.get(1..).unwrap_or_default().chunks_exact(2) {
                let [name, behind] = pair else { continue };
                let Some(stem) = name.strip_suffix(".rs") else { continue };
                named.files.insert((*name).to_owned());
                if behind.trim_start().starts_with("and below") {
                    named.folders.insert(format!("{stem}/"));
                }
            }
        }
        named
    }

    fn has(&self, file: &str) -> bool {
        self.files.contains(file) || self.folders.iter().any(|folder| file.starts_with(folder.as_str()))
    }
}

#[test]
fn the_code_map_names_every_source_file() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let files: Vec<String> = texts(&["rs"]).into_iter().map(|(file, _)| file).collect();
    let (mut missing, mut tables) = (Vec::new(), 0);
    for part in text.split("\n### ").skip(1) {
        let Some(folder) = part.lines().next().and_then(|line| line.split('`').nth(1)) else { continue };
        tables += 1;
        let table = part.split("\n## ").next().unwrap_or_default();
        let named = Named::of(table);
        for file in files.iter().filter_map(|file| file.strip_prefix(folder)?.strip_prefix('/')) {
            let is_unnamed = file.split('/').any(|part| UNNAMED.contains(&part));
            if !is_unnamed && !named.has(file) {
                missing.push(format!("{folder}/{file}"));
            }
        }
    }
    assert_eq!(tables, 4, "the map has a table for each crate");
    assert!(missing.is_empty(), "the code map of ARCHITECTURE.md lacks:\n{}", missing.join("\n"));
}

#[test]
fn below_is_meant_of_the_file_right_before_it() {
    let table = "| file | what |\n|---|---|\n| `a.rs`, `b.rs` and below | does `c.rs` |\nnot `d.rs` and below\n";
    let named = Named::of(table);
    for there in ["a.rs", "b.rs", "b/c.rs", "b/c/d.rs"] {
        assert!(named.has(there), "{there}");
    }
    for gone in ["a/b.rs", "c.rs", "d.rs", "d/a.rs", "bb/c.rs"] {
        assert!(!named.has(gone), "{gone}");
    }
}
