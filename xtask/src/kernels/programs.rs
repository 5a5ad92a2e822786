//! Builds what runs on each kernel, with the same compiler as all else, so that a guest needs no toolchain.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use super::image::{Contents, Program};
use crate::project::Project;
use crate::run::{SEE_ABOVE, run, say};

/// The example of `forwarder` that loads all programs.
pub(super) const VERIFY: &str = "verify";
/// The daemon.
pub(super) const DAEMON: &str = "forwarder";
/// Tests of `forwarder` that run on each kernel.
const TESTS: [&str; 2] = ["golden", "attach"];
/// A configuration that is complete but for its certificates, which are read after the kernel is looked at.
const CONFIGURATION: &str = r#"
node = 1
interfaces = ["lo"]
underlay = "127.0.0.1"
[[service]]
vip = "192.0.2.10"
port = 5060
[cluster]
name = "guest"
listen = "127.0.0.1:7470"
seeds = []
ca = "ca.pem"
certificate = "node-1.pem"
key = "node-1.key"
secret = "cluster.secret"
"#;

/// Builds everything: what a supported kernel must run, and what one that is too old must. With `record` programs are
/// not compared with what was recorded.
pub(super) fn build(project: &Project, record: bool) -> Result<(Contents, Contents)> {
    let mut cargo = project.cargo();
    cargo.args(["build", "--package", "xtask", "--package", "forwarder", "--bin", DAEMON]);
    cargo.args(["--example", "guest", "--example", VERIFY]);
    run("build the guest's programs", SEE_ABOVE, &mut cargo)?;
    let debug = project.target().join("debug");
    let arguments: &[_] = if record { &["--record"] } else { &[] };
    let verify = Program { name: VERIFY, file: debug.join("examples").join(VERIFY), arguments };
    let arguments: &[_] = &["run", "--config", "/forwarder.toml"];
    let daemon = debug.join(DAEMON);
    let started = vec![(DAEMON, daemon.clone())];
    let daemon = Program { name: DAEMON, file: daemon, arguments };
    let init = debug.join("examples/guest");
    let supported = [vec![verify], build_tests(project)?].into_iter().flatten().collect();
    Ok((
        Contents { init: init.clone(), programs: supported, started, files: Vec::new() },
        Contents { init, programs: vec![daemon], started: Vec::new(), files: vec![("forwarder.toml", CONFIGURATION)] },
    ))
}

fn build_tests(project: &Project) -> Result<Vec<Program>> {
    let mut cargo = project.cargo();
    cargo.args(["test", "--no-run", "--package", "forwarder", "--message-format", "json-render-diagnostics"]);
    cargo.args(TESTS.iter().flat_map(|test| ["--test", test]));
    say("build the guest's tests");
    let built = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("start cargo")?;
    if !built.status.success() {
        bail!("build the guest's tests: {}; hint: {SEE_ABOVE}", built.status);
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    let test = |name: &'static str| {
        let file = executable(&messages, name).with_context(|| format!("find the test program {name}"))?;
        // One at a time: an emulated processor is slow, and the tests' own deadlines are not.
        Ok(Program { name, file, arguments: &["--test-threads=1"] })
    };
    TESTS.into_iter().map(test).collect()
}

/// The file of a test in cargo's messages.
fn executable(messages: &str, test: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut files = messages.filter_map(|message| {
        let is_it = message.pointer("/target/name")? == test && message.pointer("/target/kind/0")? == "test";
        is_it.then(|| message.get("executable")?.as_str().map(PathBuf::from)).flatten()
    });
    files.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_test_is_read_from_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"golden"},"executable":null}
            {"reason":"compiler-artifact","target":{"kind":["test"],"name":"golden"},"executable":"/t/golden-1"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "golden"), Some("/t/golden-1".into()));
        assert_eq!(executable(messages, "attach"), None);
    }
}
