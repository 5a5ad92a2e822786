//! The crates outside the workspace have the workspace's lints: Cargo cannot share a table with them.

use std::{collections::BTreeMap, fs, path::Path};

/// The lints of a manifest whose tables begin with `prefix`, by table and name, with their levels.
fn lints(text: &str, prefix: &str) -> BTreeMap<(String, String), String> {
    let mut table = None;
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            let name = header.split(']').next().unwrap_or(header);
            table = name.strip_prefix(prefix).map(str::to_owned);
        } else if let (Some(table), Some((name, level))) = (&table, line.split_once('=')) {
            let level = level.split('#').next().unwrap_or(level).trim();
            found.insert((table.clone(), name.trim().to_owned()), level.to_owned());
        }
    }
    found
}

#[test]
fn the_crates_outside_the_workspace_have_its_lints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = |file: &str, prefix| lints(&fs::read_to_string(root.join(file)).unwrap(), prefix);
    let of_workspace = read("Cargo.toml", "workspace.lints.");
    assert!(of_workspace.len() > 20, "{of_workspace:?}");
    for manifest in ["forwarder-ebpf/Cargo.toml", "fuzz/Cargo.toml"] {
        let own = read(manifest, "lints.");
        let differ: Vec<_> = of_workspace.iter().filter(|(lint, level)| own.get(*lint) != Some(*level)).collect();
        assert!(differ.is_empty(), "{manifest}: {differ:?}");
    }
}

#[test]
fn what_the_daemon_and_its_commands_say_leaves_by_one_way() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("forwarder/src");
    let mut folders = vec![source];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            for line in fs::read_to_string(&entry).unwrap().lines() {
                let ways = ["stdout()", "stderr()", "println!", "print!(", "env_logger::"];
                if ways.iter().any(|way| line.contains(way)) {
                    let name = entry.file_name().unwrap().to_string_lossy().into_owned();
                    found.push(format!("{name}: {}", line.trim()));
                }
            }
        }
    }
    found.sort();
    // Each of them escapes: the log's format, the errors' sentence, the answers' writer.
    let expected = [
        "cli.rs: let _ = writeln!(io::stderr(), \"forwarder: {}\", sentence(&error));",
        "cli.rs: let mut log = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(\"info\"));",
        "cli.rs: let mut out = Harmless(io::stdout().lock());",
    ];
    assert_eq!(found, expected, "text leaves by src/foreign.rs alone");
}

#[test]
fn every_crate_of_the_workspace_takes_its_lints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let workspace = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let members = workspace.lines().find_map(|line| line.strip_prefix("members = [")).unwrap();
    let members: Vec<_> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.len() >= 5, "{members:?}");
    for member in members {
        let manifest = fs::read_to_string(root.join(member).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{member}");
    }
}

#[test]
fn a_level_that_differs_and_a_lint_that_is_missing_are_seen() {
    let of = |text| lints(text, "lints.");
    let full = of("[lints.rust]\na = \"warn\" # why\n[lints.clippy]\nb = \"deny\"\n[other]\nc = 1\n");
    assert_eq!(full.len(), 2);
    assert_ne!(full, of("[lints.rust]\na = \"deny\"\n[lints.clippy]\nb = \"deny\"\n"));
    assert_ne!(full, of("[lints.rust]\na = \"warn\"\n"));
}
