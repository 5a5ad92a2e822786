//! Each map has one writer, but for the claim table and the keys beside it, and `forwarder-ebpf/src/maps.rs` says
//! which.
//!
//! Read from the sources: only that file reaches a map in the programs, and in the daemon only what takes it out of the
//! object.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "all of it is a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Maps where every write of an entry is a compare-and-swap, or follows one that its writer has won.
const WITH_SEVERAL_WRITERS: [&str; 2] = ["CLAIMS", "KEYS"];
/// The daemon maps these into its memory and writes them there.
const MEMORY_MAPPED: [&str; 2] = ["CLAIMS", "KEYS"];
/// What the programs call to read a map, and what to write it.
const KERNEL_READS: [&str; 3] = ["get", "get_ptr", "tail_call"];
const KERNEL_WRITES: [&str; 3] = ["get_ptr_mut", "output", "reserve"];
/// The same of the daemon.
const DAEMON_READS: [&str; 1] = ["get"];
const DAEMON_WRITES: [&str; 2] = ["clear_index", "set"];
/// Files of the programs by the word for them in the maps' documentation.
const FILES: [(&str, &str); 5] = [
    ("decapsulation", "decap.rs"),
    ("egress", "egress.rs"),
    ("explain", "explain.rs"),
    ("ingress", "ingress.rs"),
    ("punts", "punt.rs"),
];

/// Files that only one hook calls, and that one's.
const PARTS: [(&str, &str); 1] = [("room.rs", "egress.rs")];

/// A map as `maps.rs` declares it.
#[derive(Debug)]
struct Declared {
    name: String,
    /// `Array`, `PerCpuArray`, ...
    form: String,
    /// Its documentation up to the readers: who writes it.
    writers: String,
}

fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The maps that a file declares.
fn declared(text: &str) -> Vec<Declared> {
    let lines: Vec<&str> = text.lines().collect();
    let attributes = (0..lines.len()).filter(|at| lines[*at] == "#[map]");
    let map = |at: usize| {
        let docs: Vec<&str> = lines[..at].iter().rev().map_while(|line| line.strip_prefix("/// ")).collect();
        let docs = docs.into_iter().rev().collect::<Vec<_>>().join(" ");
        let end = docs.find("->").or_else(|| docs.find(':')).unwrap_or(0);
        let (name, form) = lines[at + 1].strip_prefix("static ").and_then(|rest| rest.split_once(": ")).unwrap();
        let form = form.split(['<', ' ']).next().unwrap().to_owned();
        Declared { name: name.to_owned(), form, writers: docs[..end].trim().to_lowercase() }
    };
    attributes.map(map).collect()
}

/// The methods called on `place` in code, each with the function that calls it.
fn calls<'a>(code: &'a str, place: &str) -> Vec<(&'a str, &'a str)> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let word = |text: &'a str| &text[..text.find(|c| !is_name(c)).unwrap_or(text.len())];
    let is_place = |at: &usize| !code[..*at].ends_with(|c| is_name(c) || c == '.');
    code.match_indices(place)
        .map(|(at, _)| at)
        .filter(is_place)
        .filter_map(|at| {
            let method = word(code[at + place.len()..].trim_start().strip_prefix('.')?);
            let function = code[..at].rfind("fn ").map_or("", |function| word(&code[function + 3..]));
            Some((method, function))
        })
        .collect()
}

/// The functions of `maps.rs` that write a map; what is neither a read nor a write is a complaint.
fn kernel_writers<'a>(maps: &'a str, name: &str, complaints: &mut Vec<String>) -> BTreeSet<&'a str> {
    let mut writers = BTreeSet::new();
    for (method, function) in calls(maps, name) {
        if KERNEL_WRITES.contains(&method) {
            writers.insert(function);
        } else if !KERNEL_READS.contains(&method) {
            complaints.push(format!("{name}: is `{method}` a read or a write?"));
        }
    }
    // A line of the table is looked up to be read; what writes it is the compare-and-swap.
    if writers.remove("line") {
        writers.insert("exchange");
    }
    // The word beside an entry is looked up for these two.
    if writers.remove("key_word") {
        writers.extend(["note_rest", "note_step"]);
    }
    writers
}

/// Whether the daemon writes a map, by the place in its code that has the map.
fn daemon_writes(files: &[String], name: &str, complaints: &mut Vec<String>) -> bool {
    let mut writes = MEMORY_MAPPED.contains(&name);
    for file in files {
        for (at, _) in file.match_indices(&format!("take(ebpf, \"{name}\")")) {
            // A field of a value, or a variable; else a ring buffer that a function returns.
            let line = file[..at].lines().last().unwrap_or_default().trim_start();
            let place = match (line.strip_prefix("let mut "), line.split_once(": ")) {
                (Some(variable), _) => variable.split(':').next().unwrap().to_owned(),
                (None, Some((field, _))) => format!("self.{}", field.rsplit([' ', '{']).next().unwrap()),
                (None, None) => continue,
            };
            for (method, _) in calls(file, &place) {
                writes |= DAEMON_WRITES.contains(&method);
                if !DAEMON_WRITES.contains(&method) && !DAEMON_READS.contains(&method) {
                    complaints.push(format!("{name}: is `{place}.{method}` a read or a write?"));
                }
            }
        }
    }
    writes
}

/// What is wrong with the writers of the maps of `maps.rs`, given the programs' other files and the daemon's.
fn complaints(maps: &str, hooks: &BTreeMap<String, String>, daemon: &[String]) -> Vec<String> {
    let (mut complaints, code) = (Vec::new(), code(maps));
    for Declared { name, form, writers } in declared(maps) {
        let functions = kernel_writers(&code, &name, &mut complaints);
        let is_call = |file: &str, function: &str| match function {
            "exchange" => file.contains(".exchange("),
            _ => [format!("maps::{function}("), format!("maps::{function}::<")].iter().any(|call| file.contains(call)),
        };
        // key.rs is a part of either program, with the scratch of that one.
        let is_hook = |name: &str| form != "PerCpuArray" || name != "key.rs";
        let calls = |file: &str| functions.iter().any(|function| is_call(file, function));
        let files = hooks.iter().filter(|(name, file)| is_hook(name) && calls(file)).map(|(name, _)| name.as_str());
        let files: Vec<&str> = files.collect();
        let (kernel, daemon) = (!functions.is_empty(), daemon_writes(daemon, &name, &mut complaints));
        let may_have_several = WITH_SEVERAL_WRITERS.contains(&name.as_str());
        if kernel && daemon && !may_have_several {
            complaints.push(format!("{name}: both the programs and the daemon write it"));
        }
        // The programs share an array; a value of each CPU and a record of a ring buffer have one writer at a time.
        if kernel && form == "Array" && files.len() != 1 {
            complaints.push(format!("{name}: {files:?} write it"));
        }
        let said: Vec<&str> = writers.split([',', ' ']).filter(|word| !["", "and", "daemon"].contains(word)).collect();
        if daemon != writers.contains("daemon") || kernel == said.is_empty() {
            complaints.push(format!("{name}: its documentation says that {writers:?} write it"));
        }
        let only = FILES.iter().find(|(_, file)| files == [*file]);
        if only.is_some_and(|(word, _)| said != [*word]) || (files.len() > 1 && said.len() < 2) {
            complaints.push(format!("{name}: {files:?} write it, its documentation says {writers:?}"));
        }
    }
    complaints
}

fn read(path: &Path) -> Vec<(String, String)> {
    let files = fs::read_dir(path).unwrap().flatten().filter(|entry| entry.file_type().unwrap().is_file());
    files
        .map(|entry| {
            let text = fs::read_to_string(entry.path()).unwrap();
            (entry.file_name().to_string_lossy().into_owned(), code(&text))
        })
        .collect()
}

/// The files of the programs, a file that is a part of one hook with that one.
fn hooks(root: &Path) -> BTreeMap<String, String> {
    let mut hooks: BTreeMap<String, String> = read(&root.join("forwarder-ebpf/src")).into_iter().collect();
    for (part, whole) in PARTS {
        let part = hooks.remove(part).unwrap();
        hooks.get_mut(whole).unwrap().push_str(&part);
    }
    hooks
}

#[test]
fn each_map_has_one_writer_and_its_documentation_says_which() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let maps = fs::read_to_string(root.join("forwarder-ebpf/src/maps.rs")).unwrap();
    assert!(declared(&maps).len() >= 20 && maps.matches("#[map]").count() == declared(&maps).len());
    let mut hooks = hooks(root);
    hooks.remove("maps.rs").unwrap();
    assert!(hooks.values().all(|file| !file.contains("#[map]")), "a map outside of maps.rs");
    let daemon: Vec<String> = read(&root.join("forwarder/src/dataplane")).into_iter().map(|(_, code)| code).collect();
    let daemon: Vec<String> = daemon.iter().map(|code| code.replace("&mut ebpf", "ebpf")).collect();
    assert!(daemon.iter().any(|code| code.contains("take(ebpf, \"CONFIG\")")));
    let complaints = complaints(&maps, &hooks, &daemon);
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn the_egress_program_alone_writes_claims() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let writes = |code: &str| [".exchange(", "note_rest(", "table::choose("].map(|call| code.contains(call));
    for (name, code) in hooks(root).iter().filter(|(name, _)| *name != "maps.rs") {
        assert_eq!(writes(code), [name == "egress.rs"; 3], "{name}");
    }
}

#[test]
fn a_second_writer_is_seen() {
    let maps = |writers: &str, form: &str, call: &str| {
        format!("/// {writers} -> egress: one word.\n#[map]\nstatic WORD: {form}<u64> = {form}::new();\n{call}")
    };
    let (set, get) = ("pub(crate) fn put() { WORD.get_ptr_mut(0); }", "pub(crate) fn it() { WORD.get(0); }");
    let hooks = |files: &[&str]| files.iter().map(|file| ((*file).to_owned(), "maps::put();".to_owned())).collect();
    let none = [];
    let daemon = ["word: take(ebpf, \"WORD\")?, fn f() { self.word\n.set(0); }".to_owned()];
    let of = |writers, form, call, files: &[&str], daemon: &[String]| {
        complaints(&maps(writers, form, call), &hooks(files), daemon).join("; ")
    };
    assert_eq!(of("Daemon", "Array", get, &[], &daemon), "");
    assert_eq!(of("Egress", "Array", set, &["egress.rs"], &none), "");
    assert_eq!(of("All programs", "PerCpuArray", set, &["egress.rs", "ingress.rs"], &none), "");
    for (said, wrong) in [
        (of("Egress", "Array", set, &["egress.rs"], &daemon), "both the programs and the daemon write it"),
        (of("Egress and daemon", "Array", set, &["egress.rs"], &daemon), "both the programs and the daemon write it"),
        (
            of("Egress, ingress", "Array", set, &["egress.rs", "ingress.rs"], &none),
            "[\"egress.rs\", \"ingress.rs\"] write",
        ),
        (of("Daemon", "Array", set, &["egress.rs"], &none), "its documentation says that \"daemon\" write it"),
        (of("Egress", "Array", get, &[], &daemon), "its documentation says that \"egress\" write it"),
        (of("Ingress", "PerCpuArray", set, &["egress.rs"], &none), "its documentation says \"ingress\""),
        (of("Egress", "PerCpuArray", set, &["egress.rs", "punt.rs"], &none), "its documentation says \"egress\""),
        (of("Daemon", "Array", "fn f() { WORD.insert(0); }", &[], &daemon), "is `insert` a read or a write?"),
    ] {
        assert!(said.contains(wrong), "{said:?} instead of {wrong:?}");
    }
}
