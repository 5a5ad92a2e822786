//! Names of code in documents and comments.

use crate::sources::{Sources, foreign_crates, spans, words};
use crate::{Wrong, assert_right, texts};

/// Where paths come from that are nobody's here, beside other people's crates.
const FOREIGN_PATHS: [&str; 7] = ["std", "core", "io", "fmt", "u64", "u32", "u16"];
/// How names begin that are the kernel's.
const OF_THE_KERNEL: [&str; 14] = [
    "AF_",
    "BPF_",
    "INET_DIAG_",
    "IPV6_",
    "IP_",
    "RTM_",
    "SKNLGRP_",
    "accept_",
    "CLOCK_",
    "ETHTOOL_",
    "MODULE_",
    "XDP_",
    "bpf_",
    "veth_",
];
/// Names of other programs, crates and formats, and of Rust.
const FOREIGN: [&str; 13] = [
    "IpDefragPool",
    "PrivateMounts",
    "PrivateNetwork",
    "ProtectKernelTunables",
    "StdRng",
    "adjust_head",
    "foo.rs",
    "incompatible_msrv",
    "max_ack_delay",
    "mod.rs",
    "rand_chacha",
    "st_mode",
    "tiny_http",
];

/// What a piece of code between backticks claims to be.
#[derive(Debug, PartialEq, Eq)]
enum Name<'a> {
    /// `owner::name`, by its last two parts.
    Path(&'a str, &'a str),
    /// `name()`.
    Function(&'a str),
    /// A name of several words: a type, a constant, a test, a key.
    Word(&'a str),
    /// `file.rs`, with or without folders.
    File(&'a str),
}

impl<'a> Name<'a> {
    fn of(span: &'a str) -> Option<Self> {
        let is_name = |part: &str| {
            !part.is_empty() && !part.starts_with(|c: char| c.is_ascii_digit()) && words(part).next() == Some(part)
        };
        if span.ends_with(".rs") {
            return (!span.contains([' ', '*', '{'])).then_some(Self::File(span));
        }
        let plain = span.strip_suffix("()").unwrap_or(span);
        if plain.contains("::") {
            let parts: Vec<&str> = plain.split("::").collect();
            let [.., owner, name] = parts[..] else { return None };
            return parts.iter().all(|part| is_name(part)).then_some(Self::Path(owner, name));
        }
        if !is_name(plain) {
            return None;
        }
        if plain != span {
            return Some(Self::Function(plain));
        }
        let humps = plain.chars().filter(char::is_ascii_uppercase).count();
        let is_camel = humps > 1 && plain.starts_with(char::is_uppercase) && plain.contains(char::is_lowercase);
        (plain.contains('_') || is_camel).then_some(Self::Word(plain))
    }

    /// Whether it exists, seen from a file of the project.
    fn exists(&self, sources: &Sources, from: &str) -> bool {
        match *self {
            Self::Path("Self" | "super" | "crate" | "self", name) => {
                sources.defines(name) || sources.has_word(name) && name.starts_with(char::is_uppercase)
            }
            Self::Path(owner, name) => sources.has_in(owner, name),
            Self::Function(name) => sources.defines(name),
            Self::Word(name) => sources.has_word(name),
            Self::File(file) => {
                // A document names files by the end of their path, a comment those of its own crate.
                let home = if from.ends_with(".rs") { from.split('/').next().unwrap_or_default() } else { "" };
                let (beside, mut files) = (format!("/{file}"), sources.files.iter().map(|source| &source.file));
                files.any(|known| known == file || known.starts_with(home) && known.ends_with(&beside))
            }
        }
    }
}

fn wrong(sources: &Sources, file: &str, spans: &[(usize, &str)]) -> Vec<Wrong> {
    let foreign = foreign_crates();
    let is_foreign = |span: &&str| {
        let first = words(span).next().unwrap_or_default();
        FOREIGN.contains(span)
            || OF_THE_KERNEL.iter().any(|begin| span.starts_with(begin))
            || span.contains("::") && (first.len() == 1 || FOREIGN_PATHS.contains(&first) || foreign.contains(first))
    };
    let is_wrong = |(_, span): &&(usize, &str)| {
        Name::of(span).is_some_and(|name| !is_foreign(span) && !name.exists(sources, file))
    };
    let say = |(line, span): &(usize, &str)| Wrong { file: file.to_owned(), line: *line, said: (*span).to_owned() };
    spans.iter().filter(is_wrong).map(say).collect()
}

#[test]
fn every_name_that_a_document_has_in_backticks_exists() {
    let sources = Sources::read();
    let mut all = Vec::new();
    // The changelog names what is gone.
    for (file, text) in texts(&["md"]).into_iter().filter(|(file, _)| file != "CHANGELOG.md") {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        all.extend(wrong(&sources, &file, &spans(lines)));
    }
    assert_right("documents name code that is not there", &all);
}

#[test]
fn every_name_that_a_comment_has_in_backticks_exists() {
    let sources = Sources::read();
    let mut all = Vec::new();
    for source in &sources.files {
        let lines = source.comments.iter().map(|(line, text)| (*line, text.as_str()));
        all.extend(wrong(&sources, &source.file, &spans(lines)));
    }
    assert_right("comments name code that is not there", &all);
}

#[test]
fn a_name_is_told_by_its_form() {
    assert_eq!(Name::of("verdict::decide()"), Some(Name::Path("verdict", "decide")));
    assert_eq!(Name::of("poll_output()"), Some(Name::Function("poll_output")));
    assert_eq!(Name::of("a_sentence_that_is_a_test"), Some(Name::Word("a_sentence_that_is_a_test")));
    assert_eq!(Name::of("SlowPath"), Some(Name::Word("SlowPath")));
    assert_eq!(Name::of("links/calls.rs"), Some(Name::File("links/calls.rs")));
    for other in ["Call-ID", "INVITE", "cargo fmt", "80", "x", "forwarder status", "bench --compare A B", "Some(3)"] {
        assert_eq!(Name::of(other), None, "{other}");
    }
}

#[test]
fn a_name_that_is_not_there_is_found_out() {
    let sources = Sources::read();
    let is_wrong = |span: &'static str| !wrong(&sources, "README.md", &[(1, span)]).is_empty();
    for there in
        ["setup::deny", "Counts::skipped", "Target::Slowpath", "pins::CARGO_DENY", "no_lab", "pins.rs", "skip()"]
    {
        assert!(!is_wrong(there), "{there}");
    }
    for gone in
        ["pins::wrong", "Counts::passing", "Target::Slowly", "fuzz::CARGO_DENY", "no_lap", "pin.rs", "skip_it()"]
    {
        assert!(is_wrong(gone), "{gone}");
    }
}
