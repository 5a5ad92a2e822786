//! Files import each other in one direction, and a type's methods are in the type's file.
//!
//! What was otherwise when this test came is listed as known: the lists may only become shorter.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "all of it is a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Files that reach themselves by their imports.
const KNOWN_CIRCLES: &[&str] = &[];
/// Files with methods of a type that another file defines, and the type.
const KNOWN_SCATTERED: &[(&str, &str)] = &[];

const CRATES: [&str; 8] =
    ["bench", "forwarder-common", "forwarder-core", "forwarder", "forwarder-ebpf", "test-support", "tests", "xtask"];

/// A source file without its comments and tests.
struct Source {
    /// From the repository's root on.
    name: String,
    /// Its module: the names below `crate`.
    module: Vec<String>,
    code: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn sources(package: &str) -> Vec<Source> {
    let (root, mut files, mut found) = (root(), Vec::new(), Vec::new());
    let src = root.join(package).join("src");
    walk(&src, &mut files);
    for file in files {
        let below = file.strip_prefix(&src).unwrap().with_extension("");
        let mut module: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.last().is_some_and(|last| last == "tests") {
            continue;
        }
        if ["lib", "main"].iter().any(|name| module == [*name]) {
            module.clear();
        }
        let name = file.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        found.push(Source { name, module, code: code(&fs::read_to_string(&file).unwrap()) });
    }
    assert!(found.len() > 5, "{package} has no sources");
    found
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What is neither comment nor test.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let without = text.lines().map(|line| line.split("//").next().unwrap());
    without.collect::<Vec<_>>().join("\n")
}

/// The paths that `use` items name, each as its parts: `use a::{b, c::d};` gives `a::b` and `a::c::d`.
fn used(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for item in code.split_inclusive(';') {
        let Some(at) =
            item.rfind("use ").filter(|at| item[..*at].trim_end_matches(' ').ends_with(['\n', ')', 'b']) || *at == 0)
        else {
            continue;
        };
        expand(item[at + 4..].trim_end_matches(';'), &[], &mut paths);
    }
    paths
}

fn expand(tree: &str, before: &[String], paths: &mut Vec<Vec<String>>) {
    let (head, group) = tree.split_once('{').map_or((tree, None), |(head, rest)| (head, Some(rest)));
    let parts = head.split("::").map(|part| part.split(" as ").next().unwrap().trim().to_owned());
    let path: Vec<String> = before.iter().cloned().chain(parts.filter(|part| !part.is_empty())).collect();
    let Some(group) = group.and_then(|group| group.trim_end().strip_suffix('}')) else { return paths.push(path) };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = group[start..at].trim();
                if !part.is_empty() {
                    expand(part, &path, paths);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The paths that code names without importing them: those that begin with `crate`, `super` or `self`, or with a module
/// that the file declares.
fn inline(code: &str) -> Vec<Vec<String>> {
    let declared: Vec<&str> = code
        .lines()
        .filter_map(|line| line.trim().strip_suffix(';')?.split_once("mod "))
        .map(|(_, name)| name)
        .collect();
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    // What ends in `::` is the head of a group, which `used` expands.
    let words = code.split(|c| !is_name(c)).filter(|word| word.contains("::") && !word.ends_with("::"));
    let paths = words.map(|word| word.split("::").map(str::to_owned).collect::<Vec<_>>());
    paths
        .filter(|path| ["crate", "super", "self"].contains(&path[0].as_str()) || declared.contains(&path[0].as_str()))
        .collect()
}

/// The file of a path that `from` names: that of the longest part of it that is a module.
fn target<'a>(path: &[String], from: &Source, files: &BTreeMap<&[String], &'a str>) -> Option<&'a str> {
    let mut module = from.module.clone();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => {
            // A program beside the crate's own is a crate of its own.
            module.truncate(if module.first().is_some_and(|first| first == "bin") { 2 } else { 0 });
            rest = &path[1..];
        }
        "self" => rest = &path[1..],
        "super" => {
            while let Some("super") = rest.first().map(String::as_str) {
                module.pop();
                rest = &rest[1..];
            }
        }
        // A module that the file declares; else a crate of another name.
        first => {
            module.push(first.to_owned());
            files.get(module.as_slice())?;
            rest = &path[1..];
        }
    }
    module.extend(rest.iter().cloned());
    (0..=module.len()).rev().find_map(|length| files.get(&module[..length]).copied())
}

/// The modules that a file declares and that lie elsewhere, each with where: by `#[path]`.
fn placed(source: &Source) -> Vec<(Vec<String>, &str)> {
    let declared = source.code.split("#[path = \"").skip(1).filter_map(|rest| {
        let (path, rest) = rest.split_once("\"]")?;
        let name = rest.split_once("mod ")?.1.split(';').next()?;
        Some(([source.module.as_slice(), &[name.to_owned()]].concat(), path))
    });
    declared.collect()
}

/// The files that each file imports from.
fn imports(sources: &[Source]) -> BTreeMap<&str, BTreeSet<&str>> {
    let elsewhere: Vec<_> = sources.iter().flat_map(placed).collect();
    let places = elsewhere.iter().map(|(module, path)| (module.as_slice(), *path));
    let own = sources.iter().map(|source| (source.module.as_slice(), source.name.as_str()));
    let files: BTreeMap<&[String], &str> = places.chain(own).collect();
    let of = |source: &Source| {
        let paths = used(&source.code).into_iter().chain(inline(&source.code));
        paths.filter_map(|path| target(&path, source, &files)).filter(|name| *name != source.name).collect()
    };
    sources.iter().map(|source| (source.name.as_str(), of(source))).collect()
}

/// The files that reach themselves, each with a file by which it does.
fn circles<'a>(imports: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeMap<&'a str, &'a str> {
    let reaches = |from: &str, to: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            if file == to {
                return true;
            }
            if seen.insert(file) {
                open.extend(imports.get(file).into_iter().flatten());
            }
        }
        false
    };
    let by = |file: &&'a str| imports[file].iter().find(|next| reaches(next, file)).copied();
    imports.keys().filter_map(|file| Some((*file, by(file)?))).collect()
}

/// The types that have methods in a file which does not define them.
fn scattered(source: &Source) -> BTreeSet<String> {
    let blocks = source.code.lines().filter(|line| line.starts_with("impl") && !line.contains(" for "));
    let name = |line: &str| {
        let mut rest = line.trim_start_matches("impl");
        if rest.starts_with('<') {
            let mut depth = 0;
            let end = rest.find(|c| {
                depth += i32::from(c == '<') - i32::from(c == '>');
                depth == 0
            });
            rest = &rest[end.unwrap() + 1..];
        }
        rest.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned()
    };
    let is_defined = |name: &String| {
        ["struct ", "enum ", "union ", "type "].iter().any(|what| {
            let definition = format!("{what}{name}");
            source.code.match_indices(&definition).any(|(at, _)| {
                let next = source.code[at + definition.len()..].chars().next();
                !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
            })
        })
    };
    blocks.map(name).filter(|name| !is_defined(name)).collect()
}

#[test]
fn no_file_imports_from_one_that_imports_from_it() {
    let mut found = BTreeMap::new();
    for package in CRATES {
        let sources = sources(package);
        let circles = circles(&imports(&sources)).into_iter().map(|(file, by)| (file.to_owned(), by.to_owned()));
        found.extend(circles.collect::<Vec<_>>());
    }
    let new: Vec<_> = found.iter().filter(|(file, _)| !KNOWN_CIRCLES.contains(&file.as_str())).collect();
    assert!(new.is_empty(), "these files import in a circle (each with the next file of it): {new:#?}");
    let gone: Vec<_> = KNOWN_CIRCLES.iter().filter(|file| !found.contains_key(**file)).collect();
    assert!(gone.is_empty(), "in no circle any more: take them out of KNOWN_CIRCLES: {gone:#?}");
}

#[test]
fn the_methods_of_a_type_are_in_its_file() {
    let sources: Vec<Source> = CRATES.iter().flat_map(|package| sources(package)).collect();
    let found: BTreeSet<(String, String)> = sources
        .iter()
        .flat_map(|source| scattered(source).into_iter().map(|name| (source.name.clone(), name)))
        .collect();
    let is_known = |(file, name): &&(String, String)| KNOWN_SCATTERED.contains(&(file.as_str(), name.as_str()));
    let new: Vec<_> = found.iter().filter(|pair| !is_known(pair)).collect();
    assert!(new.is_empty(), "methods of types that other files define: {new:#?}");
    let is_gone = |(file, name): &&(&str, &str)| !found.contains(&((*file).to_owned(), (*name).to_owned()));
    let gone: Vec<_> = KNOWN_SCATTERED.iter().filter(is_gone).collect();
    assert!(gone.is_empty(), "in their types' files now: take them out of KNOWN_SCATTERED: {gone:#?}");
}

/// Files that two programs are built from, by where they are: each is run or measured as well, not only tested.
const SHARED: [&str; 2] = ["bench/src", "forwarder-ebpf/src/bin"];

/// Paths of modules that are not below the file that names them: from `file`, `#[path]` has these.
fn foreign<'a>(file: &str, code: &'a str) -> Vec<&'a str> {
    let stem = Path::new(file).file_stem().unwrap().to_string_lossy().into_owned();
    let named = code.split("#[path = \"").skip(1).filter_map(|rest| rest.split('"').next());
    named.filter(|path| !path.starts_with(&format!("{stem}/"))).collect()
}

#[test]
fn what_several_tests_share_is_a_crate_and_no_file_by_its_path() {
    let (root, mut files) = (root(), Vec::new());
    for package in CRATES.iter().chain(&["fuzz"]) {
        ["src", "tests", "examples", "fuzz_targets"].iter().for_each(|folder| {
            let folder = root.join(package).join(folder);
            if folder.exists() {
                walk(&folder, &mut files);
            }
        });
    }
    let mut shared = Vec::new();
    for file in &files {
        let name = file.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        let code = code(&fs::read_to_string(file).unwrap());
        if !SHARED.iter().any(|folder| name.starts_with(folder)) && !name.ends_with("xtask/tests/modules.rs") {
            shared.extend(foreign(&name, &code).into_iter().map(|path| format!("{name}: {path}")));
        }
    }
    assert!(files.len() > 300, "{}", files.len());
    assert!(shared.is_empty(), "put these into the crate test-support: {shared:#?}");
}

#[test]
fn a_file_that_another_test_owns_is_seen() {
    let code = "#[path = \"a/b.rs\"]\nmod b;\n#[path = \"c/d.rs\"]\nmod d;\n#[path = \"../a/e.rs\"]\nmod e;";
    assert_eq!(foreign("x/tests/a.rs", code), ["c/d.rs", "../a/e.rs"]);
}

#[test]
fn circles_and_scattered_methods_are_seen() {
    let source = |module: &[&str], code: &str| Source {
        name: module.join("/"),
        module: module.iter().map(|part| (*part).to_owned()).collect(),
        code: self::code(code),
    };
    let sources = [
        source(&[], "mod a;\nmod b;\nuse self::a::A;\nfn f() { b::c::g(); }\n#[path = \"../e.rs\"]\nmod e;"),
        source(
            &["a"],
            "use std::{fmt, io::{self, Read}};\npub(super) struct A;\nuse super::b::{self, c::{C, D as E}};\n\
             impl<T: Into<u8>> C<T> {}",
        ),
        source(&["b"], "pub mod c;\npub use self::c::C;\n// use crate::a;\nfn f() { crate::e::g(); }"),
        source(
            &["b", "c"],
            "struct C;\nstruct Dx;\nimpl C {}\nimpl fmt::Display for A {}\nimpl D {}\nfn f() -> super::super::a::A {}",
        ),
    ];
    let names = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
    let imports = imports(&sources);
    assert_eq!(imports[""], names(&["a", "b/c"]));
    assert_eq!(imports["a"], names(&["b", "b/c"]));
    assert_eq!(imports["b"], names(&["../e.rs", "b/c"]));
    assert_eq!(imports["b/c"], names(&["a"]));
    assert_eq!(circles(&imports), [("a", "b"), ("b", "b/c"), ("b/c", "a")].into());
    assert_eq!(
        sources.each_ref().map(scattered),
        [vec![], vec!["C"], vec![], vec!["D"]].map(|names| names.into_iter().map(str::to_owned).collect())
    );
}
