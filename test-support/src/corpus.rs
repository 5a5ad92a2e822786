//! The message corpus, which lies outside the project.

use std::{fs, io::Write as _, path::PathBuf};

/// One message and its line in `expected.jsonl`.
pub struct Expected {
    /// Name relative to the corpus.
    pub file: String,
    /// The UDP payload.
    pub payload: Vec<u8>,
    /// What an exact parser reads.
    pub expected: serde_json::Value,
}

/// The corpus in `FORWARDER_CORPUS` or beside the workspace; `None`, loudly, where it is absent.
pub fn corpus(test: &str) -> Option<Vec<Expected>> {
    let beside = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/corpus"));
    let named = std::env::var_os("FORWARDER_CORPUS").map(PathBuf::from);
    let directory = named.clone().unwrap_or(beside);
    let lines = match fs::read_to_string(directory.join("expected.jsonl")) {
        Ok(lines) => lines,
        Err(error) if named.is_some() => panic!("read FORWARDER_CORPUS {}: {error}", directory.display()),
        Err(_) => {
            skip(test, "no corpus; hint: name its folder in FORWARDER_CORPUS");
            return None;
        }
    };
    let read = |line: &str| {
        let expected: serde_json::Value = serde_json::from_str(line).unwrap();
        let file = expected["file"].as_str().unwrap().to_owned();
        let payload = fs::read(directory.join(&file)).unwrap();
        Expected { file, payload, expected }
    };
    Some(lines.lines().map(read).collect())
}

/// Says loudly, and in a form that can be counted, that a test was skipped.
pub fn skip(test: &str, why: &str) {
    // Past the test runner, which shows no output of a test that passes; a closed error output is nobody to tell.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
}
