//! A lint: what makes the slow path depend on more than its arguments stays out of it.

use std::path::Path;

/// Names of things that would make the slow path depend on more than its arguments.
const FORBIDDEN: [&str; 13] = [
    "tokio",
    "aya",
    "quinn",
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "RandomState",
    "std::thread",
    "libc",
    "UdpSocket",
    "rand",
    "async",
];
const SANS_IO: [&str; 10] = [
    "slowpath.rs",
    "slowpath/gather.rs",
    "slowpath/gather/datagram.rs",
    "slowpath/hold.rs",
    "slowpath/interface.rs",
    "slowpath/ledger.rs",
    "slowpath/packet.rs",
    "slowpath/sent.rs",
    "slowpath/verdict.rs",
    "slowpath/whole.rs",
];

#[test]
fn the_slow_path_knows_no_clock_no_task_and_no_chance() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in SANS_IO {
        let text = std::fs::read_to_string(source.join(file)).unwrap();
        let shipped = text.split("#[cfg(test)]").next().unwrap();
        for line in shipped.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let words = FORBIDDEN.iter().filter(|word| line.contains(**word));
            assert_eq!(words.count(), 0, "{file}: {line}");
        }
    }
    let files = |folder: &str| {
        let entries = std::fs::read_dir(source.join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file() && !path.ends_with("tests.rs")).count()
    };
    assert_eq!(files("slowpath") + files("slowpath/gather") + 1, SANS_IO.len(), "list every file of the slow path");
}
