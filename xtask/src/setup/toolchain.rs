//! Which compiler builds eBPF: a rustup nightly with the source of the standard library, else Debian's own.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::pins;
use crate::project::{Project, find_command, forget_own_environment};
use crate::run::{attempt, output, say};

/// Where the source of the standard library lies below a compiler's root.
const LIBRARY_SOURCE: &str = "lib/rustlib/src/rust/library";
/// For a download of some hundred megabytes.
const DOWNLOAD: Duration = Duration::from_secs(900);

/// A compiler that can build `core` for eBPF.
#[derive(Debug)]
pub(crate) struct Toolchain {
    name: String,
    root: PathBuf,
    llvm: PathBuf,
    debian: bool,
}

impl Toolchain {
    /// Its name for people.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is Debian's.
    pub(crate) fn is_debian(&self) -> bool {
        self.debian
    }

    /// Its `cargo-clippy`, if it has one.
    pub(crate) fn clippy(&self) -> Option<PathBuf> {
        let clippy = self.bin("cargo-clippy");
        (clippy.is_file() && self.bin("clippy-driver").is_file()).then_some(clippy)
    }

    /// A directory with its libLLVM and no other, which `bpf-linker` opens.
    pub(crate) fn llvm(&self) -> &Path {
        &self.llvm
    }

    /// Gives Debian's libLLVM a directory of its own, `dir`. `bpf-linker` opens the first one that it meets, and
    /// where Debian has it there may be others, of Mesa or of clang.
    pub(crate) fn set_llvm_apart(&mut self, dir: PathBuf) -> Result<()> {
        if !self.debian {
            return Ok(());
        }
        let library = find_llvm(&self.llvm)?;
        let link = dir.join("libLLVM.so");
        if fs::read_link(&link).ok().as_ref() != Some(&library) {
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
            if link.is_symlink() {
                fs::remove_file(&link).with_context(|| format!("remove {}", link.display()))?;
            }
            symlink(&library, &link).with_context(|| format!("link {}", link.display()))?;
        }
        self.llvm = dir;
        Ok(())
    }

    /// One of its programs, past rustup's proxies, with an environment in which it calls only its own.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        forget_own_environment(&mut command);
        for name in
            ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"]
        {
            command.env_remove(name);
        }
        command
            .env_remove("RUSTUP_TOOLCHAIN")
            .env("CARGO", self.bin("cargo"))
            .env("RUSTC", self.bin("rustc"))
            .env("LD_LIBRARY_PATH", &self.llvm);
        if self.debian {
            // Debian ships a stable compiler; `-Z build-std` and the target's features are of the nightly kind.
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    /// Its cargo.
    pub(crate) fn cargo(&self) -> Command {
        self.command(&self.bin("cargo"))
    }

    fn bin(&self, name: &str) -> PathBuf {
        self.root.join("bin").join(name)
    }

    /// The toolchain at `root`, if it has the source and an LLVM that the linker reads.
    fn at(root: &Path, debian: bool) -> Option<Self> {
        if !root.join(LIBRARY_SOURCE).is_dir() || !root.join("bin/cargo").is_file() {
            return None;
        }
        let version = output(Command::new(root.join("bin/rustc")).arg("-vV"))?;
        if llvm_major(&version)? != pins::LLVM_MAJOR {
            return None;
        }
        let first = version.lines().next()?;
        let llvm = if debian { format!("lib/{}-linux-gnu", env::consts::ARCH) } else { "lib".to_owned() };
        let whose = if debian { "Debian's" } else { "rustup's" };
        Some(Self { name: format!("{whose} {first}"), root: root.to_path_buf(), llvm: root.join(llvm), debian })
    }
}

/// Which toolchain the user wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Preference {
    /// The first that works.
    Any,
    /// A rustup nightly.
    Rustup,
    /// Debian's.
    Debian,
}

impl Preference {
    /// Reads FORWARDER_EBPF_TOOLCHAIN.
    pub(crate) fn from_env() -> Result<Self> {
        match env::var("FORWARDER_EBPF_TOOLCHAIN").ok().as_deref() {
            None | Some("") => Ok(Self::Any),
            Some("rustup") => Ok(Self::Rustup),
            Some("debian") => Ok(Self::Debian),
            Some(other) => bail!("read FORWARDER_EBPF_TOOLCHAIN: `{other}` is unknown; hint: use `rustup` or `debian`"),
        }
    }
}

/// Looks for a toolchain that is there.
pub(crate) fn find(wanted: Preference) -> Option<Toolchain> {
    let rustup = || nightlies().iter().find_map(|(_, root)| Toolchain::at(root, false));
    let debian = || Toolchain::at(Path::new("/usr"), true);
    match wanted {
        Preference::Any => rustup().or_else(debian),
        Preference::Rustup => rustup(),
        Preference::Debian => debian(),
    }
}

/// Tries to complete a nightly, else to install the pinned one: a download of some hundred megabytes, so only where
/// Debian has no compiler to give, or where it is asked for.
pub(crate) fn try_rustup(project: &Project, wanted: Preference) -> Option<Toolchain> {
    let debian_can = find_command("apt-get").is_some() && wanted != Preference::Rustup;
    if debian_can || wanted == Preference::Debian || find_command("rustup").is_none() {
        return None;
    }
    let log = project.log("rustup").ok()?;
    let pinned_is_there = nightlies().iter().any(|(name, _)| name.starts_with(pins::NIGHTLY));
    let mut rustup = Command::new("rustup");
    rustup.env("RUSTUP_MAX_RETRIES", "1").env_remove("RUSTUP_TOOLCHAIN");
    if pinned_is_there {
        rustup.args(["component", "add", "rust-src", "--toolchain", pins::NIGHTLY]);
    } else {
        rustup.args(["toolchain", "install", pins::NIGHTLY, "--profile", "minimal", "--no-self-update"]);
        rustup.args(["--component", "rust-src", "--component", "clippy"]);
    }
    let what = format!("install the eBPF toolchain with rustup: {} with rust-src", pins::NIGHTLY);
    if attempt(&what, &log, Some(DOWNLOAD), &mut rustup).is_err() {
        say(format_args!("rustup could not: {}", log.display()));
    }
    find(Preference::Rustup)
}

/// The sentence for when nothing worked.
pub(crate) fn nothing_found(wanted: Preference) -> String {
    let llvm = pins::LLVM_MAJOR;
    match wanted {
        Preference::Rustup => format!(
            "find a rustup nightly with rust-src and LLVM {llvm}; \
             hint: `rustup toolchain install {} --component rust-src`",
            pins::NIGHTLY
        ),
        Preference::Any | Preference::Debian => format!(
            "find LLVM {llvm} in Debian's {}; hint: this needs Debian 12 with its security updates in /etc/apt",
            pins::DEBIAN_TOOLCHAIN.join(" ")
        ),
    }
}

/// Names and places of rustup's nightlies, the pinned one first.
pub(crate) fn nightlies() -> Vec<(String, PathBuf)> {
    let list = output(Command::new("rustup").args(["toolchain", "list", "--verbose"])).unwrap_or_default();
    parse_nightlies(&list)
}

fn parse_nightlies(list: &str) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = list
        .lines()
        .filter(|line| line.starts_with("nightly"))
        .filter_map(|line| {
            let name = line.split_whitespace().next()?;
            // The path may hold blanks; the marks before it, as in `(active, default)`, hold no slash.
            Some((name.to_owned(), PathBuf::from(line.get(line.find('/')?..)?)))
        })
        .collect();
    found.sort_by_key(|(name, _)| !name.starts_with(pins::NIGHTLY));
    found
}

/// The pinned version's libLLVM among those in a directory.
fn find_llvm(dir: &Path) -> Result<PathBuf> {
    let begin = format!("libLLVM.so.{}", pins::LLVM_MAJOR);
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut names = entries.flatten().map(|entry| entry.path());
    let fits = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&begin));
    names.find(fits).with_context(|| format!("find {begin} in {}; hint: reinstall rustc-web", dir.display()))
}

fn llvm_major(version: &str) -> Option<u32> {
    version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_nightly_comes_first_and_stable_not_at_all() {
        let list = format!(
            "stable-x86_64-unknown-linux-gnu (active, default) /r/toolchains/stable-x86_64-unknown-linux-gnu\n\
             nightly-x86_64-unknown-linux-gnu /home/a b/toolchains/nightly-x86_64-unknown-linux-gnu\n\
             {0}-x86_64-unknown-linux-gnu (active) /r/toolchains/{0}-x86_64-unknown-linux-gnu\n",
            pins::NIGHTLY
        );
        let found = parse_nightlies(&list);
        assert_eq!(found.len(), 2);
        assert!(found[0].0.starts_with(pins::NIGHTLY));
        assert_eq!(found[1].1, Path::new("/home/a b/toolchains/nightly-x86_64-unknown-linux-gnu"));
    }

    #[test]
    fn the_llvm_version_is_read_from_what_rustc_says() {
        assert_eq!(llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.63.0\n"), None);
    }

    #[test]
    fn of_several_llvms_the_linker_meets_only_the_compilers_own() {
        let lib = tempfile::tempdir().unwrap();
        let own = format!("libLLVM.so.{}.1", pins::LLVM_MAJOR);
        for name in ["libLLVM-14.so.1", "libLLVM.so.19.1", &own, "libLLVM-15.so"] {
            fs::write(lib.path().join(name), "").unwrap();
        }
        let mut toolchain =
            Toolchain { name: String::new(), root: "/usr".into(), llvm: lib.path().into(), debian: true };
        let apart = lib.path().join("apart");
        toolchain.set_llvm_apart(apart.clone()).unwrap();
        assert_eq!(toolchain.llvm(), apart);
        assert_eq!(fs::read_dir(&apart).unwrap().count(), 1);
        assert_eq!(fs::read_link(apart.join("libLLVM.so")).unwrap(), lib.path().join(own));
    }

    #[test]
    fn a_toolchain_without_the_library_source_is_none() {
        let root = tempfile::tempdir().unwrap();
        assert!(Toolchain::at(root.path(), false).is_none());
    }

    #[test]
    fn the_linker_is_built_for_the_llvm_that_the_compiler_must_have() {
        assert!(
            pins::BPF_LINKER_FEATURES.split(',').any(|feature| feature == format!("rust-llvm-{}", pins::LLVM_MAJOR))
        );
    }
}
