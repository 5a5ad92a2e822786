//! The daemon itself, as an operator starts it, in a folder of its own.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use forwarder::identity;
use forwarder_common::ids::NodeId;
use serde_json::Value;
use tempfile::TempDir;

use super::{Pins, TIMEOUT, wire::NEAR};

/// A node that stands alone: certificates, configuration and pins.
pub(crate) struct Site {
    folder: TempDir,
    pins: Pins,
}

/// A daemon, killed at the end if it has not ended before.
pub(crate) struct Daemon(Child);

impl Site {
    pub(crate) fn new(pins: Pins) -> Self {
        let folder = tempfile::tempdir().unwrap();
        identity::init(folder.path(), "edge").unwrap();
        identity::issue(folder.path(), NodeId::new(1).unwrap(), "127.0.0.1".parse().unwrap()).unwrap();
        let mut config = format!("node = 1\ninterfaces = [\"{NEAR}\"]\nunderlay = \"127.0.0.1\"\nclaims = 4096\n");
        writeln!(config, "pin_dir = \"{}\"\ncontrol = \"control.sock\"", pins.0.display()).unwrap();
        config += "[[service]]\nvip = \"192.0.2.10\"\nport = 5060\n";
        config += "[cluster]\nname = \"edge\"\nlisten = \"127.0.0.1:7470\"\nseeds = []\nca = \"ca.pem\"\n";
        config += "certificate = \"node-1.pem\"\nkey = \"node-1.key\"\nsecret = \"cluster.secret\"\n";
        fs::write(folder.path().join("edge.toml"), config).unwrap();
        Self { folder, pins }
    }

    /// Starts the daemon and waits until it answers; its first status.
    pub(crate) fn start(&self) -> (Daemon, Value) {
        let log = fs::File::create(self.file("log")).unwrap();
        let mut command = Command::new(binary());
        command.args(["run", "--config"]).arg(self.file("edge.toml")).stdin(Stdio::null()).stderr(log);
        let mut daemon = Daemon(command.spawn().unwrap());
        let end = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.ask(&["status", "--json"]) {
                return (daemon, status);
            }
            let log = || fs::read_to_string(self.file("log")).unwrap();
            assert!(Instant::now() < end, "the daemon does not answer: {}", log());
            assert!(daemon.0.try_wait().unwrap().is_none(), "the daemon has ended: {}", log());
        }
    }

    /// What the daemon answers, if it does.
    pub(crate) fn ask(&self, question: &[&str]) -> Option<Value> {
        let mut command = Command::new(binary());
        let answer = command.args(question).arg("--control").arg(self.file("control.sock")).output().unwrap();
        answer.status.success().then(|| serde_json::from_slice(&answer.stdout).unwrap())
    }

    /// The daemon's status; it must run.
    pub(crate) fn status(&self) -> Value {
        self.ask(&["status", "--json"]).unwrap_or_else(|| panic!("the daemon does not answer: {}", self.log()))
    }

    /// All that the last daemon has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap()
    }

    pub(crate) const fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Waits until something is so.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let end = Instant::now() + TIMEOUT;
        while !is_so() {
            assert!(Instant::now() < end, "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn detach(&self) {
        let status = Command::new(binary()).arg("detach").arg("--pin-dir").arg(&self.pins.0).output().unwrap();
        assert!(status.status.success(), "{status:?}");
        assert!(!self.pins.0.exists());
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Daemon {
    /// Asks it to end as an operator does.
    pub(crate) fn stop(mut self) -> ExitStatus {
        // SAFETY: it takes no pointers; the child has not been waited for, so that the id is its own.
        let status = unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGTERM) };
        assert_eq!(status, 0);
        let end = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the daemon goes on after SIGTERM");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where it was built, or in a guest of `cargo xtask kernels`, which has no such folder, in its root.
fn binary() -> &'static Path {
    let built = Path::new(env!("CARGO_BIN_EXE_forwarder"));
    if built.exists() { built } else { Path::new("/forwarder") }
}
