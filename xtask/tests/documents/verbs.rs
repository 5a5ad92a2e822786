//! CONTRIBUTING.md has every verb of `cargo xtask`.

use std::fs;
use std::process::Command;

use crate::root;

/// The verbs that `cargo xtask --help` lists.
fn verbs() -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let list = text.lines().skip_while(|line| *line != "Commands:").skip(1);
    let list = list.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    list.filter(|verb| *verb != "help").map(String::from).collect()
}

#[test]
fn every_verb_is_in_the_table_of_commands() {
    let (text, verbs) = (fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap(), verbs());
    assert!(verbs.contains(&"ci".to_owned()), "these are not all verbs: {verbs:?}");
    let rows: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("| `cargo xtask ")).collect();
    let is_missing = |verb: &&String| !rows.iter().any(|row| row.split([' ', '`']).next() == Some(verb));
    let missing: Vec<_> = verbs.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "CONTRIBUTING.md has no row for {missing:?}");
}
