//! Where things lie: the project's root, the target directory and what is built into it.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::output;

/// How variables begin that cargo sets for the program that it runs.
const OURS_ALONE: [&str; 5] = ["CARGO_BIN_", "CARGO_CRATE_NAME", "CARGO_MANIFEST_", "CARGO_PKG_", "LD_LIBRARY_PATH"];

/// What a first build and test write into the target directory, in MiB.
pub(crate) const ROOM_MIB: u64 = 4500;

/// The places of one working tree.
pub(crate) struct Project {
    root: PathBuf,
    target: PathBuf,
}

impl Project {
    /// Finds them from what cargo tells a program that it runs.
    pub(crate) fn find() -> Result<Self> {
        let manifest =
            env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = manifest.parent().context("find the project's root; hint: run `cargo xtask`")?.to_path_buf();
        let target = match env::var_os("CARGO_TARGET_DIR").or_else(|| env::var_os("CARGO_BUILD_TARGET_DIR")) {
            Some(dir) => env::current_dir().context("read the working directory")?.join(dir),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The directory of the workspace's Cargo.toml.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The target directory, absolute, so that every cargo started from here uses the same one.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// The MiB that are free for the target directory, if a first build may run out of them.
    pub(crate) fn little_room(&self) -> Option<u64> {
        if self.forwarder().exists() {
            return None;
        }
        let place = self.target.ancestors().find(|folder| folder.exists())?;
        let told = output(Command::new("df").args(["-Pm", "--"]).arg(place))?;
        let free = told.lines().last()?.split_whitespace().nth(3)?.parse().ok()?;
        (free < ROOM_MIB).then_some(free)
    }

    /// The cargo that started this program, in the project's root.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        forget_own_environment(&mut cargo);
        // The daemon embeds what was built here, and nothing else.
        cargo.env_remove("FORWARDER_EBPF");
        cargo
    }

    /// Where `build` puts the eBPF object, and where the daemon's build script takes it from.
    pub(crate) fn ebpf_object(&self) -> PathBuf {
        self.target.join("ebpf/forwarder-ebpf")
    }

    /// The daemon that `build` makes.
    pub(crate) fn forwarder(&self) -> PathBuf {
        self.target.join("release/forwarder")
    }

    /// Tools that belong to the project and not to the machine.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join(".tools")
    }

    /// A file for the output of a command that is shown only if it fails.
    pub(crate) fn log(&self, name: &str) -> Result<PathBuf> {
        let dir = self.target.join("xtask");
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(dir.join(format!("{name}.log")))
    }
}

/// Takes out what cargo set for this program alone: left in place, it would make build scripts run anew.
pub(crate) fn forget_own_environment(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if OURS_ALONE.iter().any(|begin| name.to_string_lossy().starts_with(begin)) {
            command.env_remove(name);
        }
    }
}

/// Whether this process may install packages and make network namespaces.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Fails where this is not root, which `what` needs.
pub(crate) fn need_root(what: &str) -> Result<()> {
    if is_root() { Ok(()) } else { bail!("{what}: not root; hint: run the same command as root") }
}

/// The file of a command in PATH or in the places of administration, which a user's PATH may lack.
pub(crate) fn find_command(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
