//! The core depends on no runtime, socket, kernel or clock: this reads what cargo says that it depends on.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Crates whose business is not the core's, with all whose names begin so.
const FORBIDDEN: [(&str, &[&str]); 5] = [
    ("a runtime", &["tokio", "async-std", "smol", "mio", "futures", "rayon", "crossbeam"]),
    ("the network", &["quinn", "hyper", "socket2", "rtnetlink", "netlink", "rustls", "if-addrs"]),
    ("the kernel", &["aya", "libc", "rustix", "nix", "linux-raw-sys", "windows"]),
    ("a clock", &["time", "chrono", "jiff", "instant", "web-time", "quanta"]),
    ("chance", &["getrandom", "fastrand"]),
];

/// The crates that `forwarder-core` is built with on this platform, its own and `forwarder-common` included. Those of
/// its tests are left out, and so are features that only other crates of the workspace turn on.
fn dependencies() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root).args(["tree", "--locked", "--offline", "--package", "forwarder-core"]);
    cargo.args(["--edges", "normal,build", "--prefix", "none", "--format", "{p}"]);
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty()).map(String::from).collect()
}

/// What a crate is forbidden for.
fn forbidden(name: &str) -> Option<&'static str> {
    let is_of =
        |family: &str| name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']));
    FORBIDDEN.iter().find(|(_, families)| families.iter().any(|family| is_of(family))).map(|(what, _)| *what)
}

#[test]
fn the_core_depends_on_no_runtime_network_kernel_clock_or_chance() {
    let found = dependencies();
    assert!(found.contains("forwarder-core") && found.contains("hashbrown"), "these are not the core's: {found:?}");
    let wrong: Vec<_> = found.iter().filter_map(|name| Some(format!("{name} ({})", forbidden(name)?))).collect();
    assert!(wrong.is_empty(), "forwarder-core depends on {}", wrong.join(", "));
}

#[test]
fn a_family_of_crates_is_forbidden_and_a_name_that_only_begins_alike_is_not() {
    for (name, what) in [("tokio", "a runtime"), ("aya-obj", "the kernel"), ("futures-util", "a runtime")] {
        assert_eq!(forbidden(name), Some(what), "{name}");
    }
    for name in ["libcheck", "timeless", "rand", "hashbrown"] {
        assert_eq!(forbidden(name), None, "{name}");
    }
}
