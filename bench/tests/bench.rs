//! The benchmark still runs: its rows are there, its packets go the whole way, and two runs can be compared. No figure
//! is looked at. Needs root, and what `cargo xtask test` builds.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// The benchmark's runner, which `cargo test` builds with the tests.
fn runner() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.env("RUST_BACKTRACE", "0");
    for (option, name) in [("--yardstick", "yardstick"), ("--lru", "lru")] {
        command.arg(option).arg(built("FORWARDER_YARDSTICKS", "../ebpf-build/bpfel-unknown-none/release").join(name));
    }
    command.arg("--forwarder").arg(built("FORWARDER_BIN", "../release/forwarder"));
    command
}

/// What `cargo xtask test` names in a variable, else where it puts it beside the eBPF object.
fn built(variable: &str, beside: &str) -> PathBuf {
    let object = Path::new(forwarder::dataplane::OBJECT_PATH);
    let path = std::env::var_os(variable).map_or_else(|| object.parent().unwrap().join(beside), PathBuf::from);
    assert!(path.exists(), "{} is missing; hint: `cargo xtask test` builds it", path.display());
    path
}

fn run(arguments: &[&str]) -> Output {
    runner().args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs it, demands that it goes well, and gives its figures.
fn figures(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("figures.json");
    let output = runner().args(arguments).arg("--json").arg(&json).output().unwrap();
    assert!(output.status.success(), "{}\n(run as root)", String::from_utf8_lossy(&output.stderr));
    let figures: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let printed = text(&output);
    for row in figures["rows"].as_array().unwrap().iter().chain(figures["values"].as_array().unwrap()) {
        let name = row["name"].as_str().unwrap();
        assert!(printed.contains(name), "{name} is not printed:\n{printed}");
    }
    figures
}

fn names(figures: &Value) -> Vec<&str> {
    figures["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect()
}

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or_else(|| panic!("{name} is no number in {row}"))
}

fn assert_measured(figures: &Value) {
    for row in figures["rows"].as_array().unwrap() {
        assert!(number(row, "median_ns") > 0.0 && number(row, "multiple") > 0.0, "{row}");
        assert!(number(row, "minimum_ns") <= number(row, "median_ns"), "{row}");
    }
}

#[test]
fn rows_are_measured_and_two_runs_are_compared() {
    let rows = [
        "RTP, not for a service, IPv4",
        "INVITE 550, local, hot, IPv4",
        "INVITE 550, forwarded, hot, IPv4",
        "egress, INVITE 550, already claimed",
        "finished program, LRU hash 25 % full: random hit",
    ];
    let mut arguments = vec!["--rounds", "2"];
    arguments.extend(rows.iter().flat_map(|row| ["--rows", row]));
    let mut before = figures(&arguments);
    let wanted: Vec<_> = ["empty XDP program", "empty TC program"].into_iter().chain(rows).collect();
    assert_eq!(names(&before), wanted);
    assert_measured(&before);

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for row in before["rows"].as_array_mut().unwrap() {
        row["multiple"] = 3.0.into();
    }
    fs::write(path("before"), before.to_string()).unwrap();
    before["rows"][2]["multiple"] = 6.0.into();
    fs::write(path("after"), before.to_string()).unwrap();
    let compared = run(&["--compare", &path("before"), &path("after")]);
    assert!(compared.status.success());
    let compared = text(&compared);
    let line = |name: &str| compared.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace();
    assert!(line(rows[0]).any(|word| word == "2.00"), "{compared}");
    assert!(line(rows[1]).any(|word| word == "1.00"), "{compared}");
}

#[test]
fn what_cannot_be_measured_or_compared_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none").display().to_string();
    fs::write(&path, "{\"rows\": 7}").unwrap();
    for (arguments, complaint) in [
        (vec!["--compare", &path, &path], "is it of `cargo xtask bench --json`?"),
        (vec!["--rounds", "1", "--rows", "RTP", "--object", &path], "load "),
        (vec!["--rounds", "0"], "invalid value"),
        (vec!["--daemon", "--claims", "7"], "invalid value"),
    ] {
        let output = run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(complaint), "{arguments:?}: {said}");
    }
}

#[test]
fn packets_go_the_whole_way_on_a_veth_pair() {
    let rows =
        ["RTP: forwarder, to a socket", "forwarder, one claim", "flood of INVITE 550, already claimed: forwarder"];
    let mut arguments = vec!["--veth", "--rounds", "1"];
    arguments.extend(rows.iter().flat_map(|row| ["--rows", row]));
    let figures = figures(&arguments);
    let bases = ["empty program, to a socket", "sent back as it is", "no program"];
    assert_eq!(names(&figures).len(), rows.len() + bases.len(), "{:?}", names(&figures));
    assert!(rows.iter().all(|row| names(&figures).iter().any(|name| name.contains(row))));
    assert!(bases.iter().all(|base| names(&figures).iter().any(|name| name.ends_with(base))));
    assert_measured(&figures);
}

#[test]
fn daemons_take_the_claims_of_a_proxy_and_a_late_one_gets_them() {
    let figures = figures(&["--daemon", "--claims", "200000", "--seconds", "1", "--rounds", "1"]);
    assert_measured(&figures);
    let values = figures["values"].as_array().unwrap();
    let value = |name: &str| values.iter().find(|value| value["name"].as_str().unwrap().ends_with(name)).unwrap();
    assert!((number(value("claims that the table has"), "value") - 200_000.0).abs() < 1.0);
    for name in ["ring-buffer drain, without a peer", "memory of the daemon", "CPU of the late daemon"] {
        assert!(number(value(name), "value") > 0.0, "{name}");
    }
}
