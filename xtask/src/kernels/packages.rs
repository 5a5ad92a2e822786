//! Debian's packages without installing any: an apt of the project's own, whose lists and state lie below `.tools`.
//!
//! The mirror is the one that the host's apt uses, the suite another one if need be. Packages are unpacked, their
//! scripts never run. What was unpacked once is used again without asking anybody.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::pins::Kernel;
use crate::project::{Project, find_command};
use crate::run::{output, run_logged, say};

/// Keys of all of Debian's suites that the host trusts; the package `debian-archive-keyring` has it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The file that says that a folder is complete, and what is in it.
const CONTENTS: &str = "CONTENTS";

/// A source of packages: its address, and whether it has security updates, whose suites have names of their own.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    address: String,
    security: bool,
}

/// The newest kernel of a suite, unpacked.
pub(super) fn kernel(project: &Project, folder: &Path, kernel: &Kernel, update: bool) -> Result<PathBuf> {
    let Kernel { suite, package: meta, .. } = *kernel;
    let unpacked = folder.join(suite);
    if !update && is_complete(&unpacked) {
        return Ok(unpacked);
    }
    let apt = folder.join(format!("{suite}-apt"));
    let config = write_config(&apt, &sources(suite, &mirrors()?))?;
    let log = project.log("kernels-apt")?;
    let what = format!("read the lists of Debian's {suite}");
    let hint = "its mirror must be reachable and its keys in debian-archive-keyring";
    run_logged(&what, &log, own_apt("apt-get", &config).args(["-q", "update", "--error-on=any"]))
        .with_context(|| format!("fetch a kernel of Debian's {suite}; hint: {hint}"))?;
    let description = output(own_apt("apt-cache", &config).args(["show", "--no-all-versions", meta]))
        .with_context(|| format!("find {meta} in Debian's {suite}"))?;
    let package = depends_on(&description, "linux-image-").with_context(|| format!("find the package of {meta}"))?;
    unpack(project, &unpacked, &[package], || own_apt("apt-get", &config))?;
    Ok(unpacked)
}

/// A package and whatever of its dependencies the host lacks, unpacked into `folder`.
pub(super) fn tool(project: &Project, folder: &Path, package: &str) -> Result<()> {
    if is_complete(folder) {
        return Ok(());
    }
    let host = || {
        let mut apt = Command::new("apt-get");
        apt.env("LC_ALL", "C").env_remove("LD_LIBRARY_PATH");
        apt
    };
    // Nothing is installed, so that it does not matter what an installation would remove.
    let plan = output(host().args(["install", "--simulate", "--no-install-recommends", package]))
        .with_context(|| format!("find {package} in Debian's lists; hint: run `apt-get update`"))?;
    unpack(project, folder, &missing(&plan), host)
}

fn is_complete(folder: &Path) -> bool {
    folder.join(CONTENTS).is_file()
}

/// Downloads packages and unpacks them into a folder that is complete or absent.
fn unpack(project: &Project, folder: &Path, packages: &[String], apt: impl Fn() -> Command) -> Result<()> {
    let partial = folder.with_extension("partial");
    for old in [&partial, &folder.to_path_buf()].into_iter().filter(|old| old.exists()) {
        fs::remove_dir_all(old).with_context(|| format!("remove {}", old.display()))?;
    }
    let downloads = partial.join("downloads");
    fs::create_dir_all(&downloads).with_context(|| format!("make {}", downloads.display()))?;
    let log = project.log("kernels-download")?;
    let what = format!("download {}", packages.join(" "));
    run_logged(&what, &log, apt().args(["-q", "download"]).args(packages).current_dir(&downloads))?;
    let files = fs::read_dir(&downloads).with_context(|| format!("read {}", downloads.display()))?;
    let mut names = Vec::new();
    for file in files.flatten().map(|entry| entry.path()) {
        if output(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(&partial)).is_none() {
            bail!("unpack {}; hint: is there room on the disk?", file.display());
        }
        names.extend(file.file_name().map(|name| name.to_string_lossy().into_owned()));
    }
    fs::remove_dir_all(&downloads).with_context(|| format!("remove {}", downloads.display()))?;
    names.sort();
    fs::write(partial.join(CONTENTS), names.join("\n") + "\n").context("write what was unpacked")?;
    fs::rename(&partial, folder).with_context(|| format!("make {}", folder.display()))?;
    say(format_args!("unpacked {} into {}", packages.join(" "), folder.display()));
    Ok(())
}

/// The mirrors of Debian's that the host's apt knows.
fn mirrors() -> Result<Vec<Mirror>> {
    if find_command("apt-get").is_none() {
        bail!("find Debian's kernels: this is no Debian; hint: run it on one, in a container for example");
    }
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)", "Created-By: Packages"]);
    let text = output(&mut command).unwrap_or_default();
    let mirrors = parse_mirrors(&text);
    if !mirrors.iter().any(|mirror| !mirror.security) {
        bail!("find a mirror of Debian's in apt's configuration; hint: run `apt-get update`, then this again");
    }
    Ok(mirrors)
}

fn parse_mirrors(text: &str) -> Vec<Mirror> {
    let mut mirrors: Vec<Mirror> = Vec::new();
    for line in text.lines() {
        let [address, suite, component, origin] = line.split('|').collect::<Vec<_>>()[..] else { continue };
        if origin != "Debian" || component != "main" {
            continue;
        }
        let mirror = Mirror { address: address.to_owned(), security: suite.contains("-security") };
        if !mirrors.contains(&mirror) {
            mirrors.push(mirror);
        }
    }
    mirrors
}

/// The lines of apt's list of sources for a suite.
fn sources(suite: &str, mirrors: &[Mirror]) -> String {
    let signed = if Path::new(KEYRING).is_file() { format!(" signed-by={KEYRING}") } else { String::new() };
    let line = |mirror: &Mirror| {
        let suffix = if mirror.security { "-security" } else { "" };
        format!("deb [target=Packages{signed}] {} {suite}{suffix} main\n", mirror.address)
    };
    mirrors.iter().map(line).collect()
}

/// Makes the folders and the configuration of an apt that knows these sources alone; the configuration's file.
fn write_config(apt: &Path, sources: &str) -> Result<PathBuf> {
    for folder in ["lists/partial", "cache/archives/partial", "no-parts"] {
        fs::create_dir_all(apt.join(folder)).with_context(|| format!("make {}", apt.display()))?;
    }
    let at = |name: &str| apt.join(name).display().to_string();
    let settings = [
        ("Dir::State", at("")),
        ("Dir::State::status", at("status")),
        ("Dir::Cache", at("cache")),
        ("Dir::Etc::sourcelist", at("sources.list")),
        ("Dir::Etc::sourceparts", at("no-parts")),
        ("Dir::Etc::preferences", at("no-preferences")),
        ("Dir::Etc::preferencesparts", at("no-parts")),
        ("Acquire::Languages", "none".to_owned()),
        // Its unprivileged user cannot write here.
        ("APT::Sandbox::User", "root".to_owned()),
    ];
    let config: String = settings.iter().map(|(name, value)| format!("{name} \"{value}\";\n")).collect();
    for (name, text) in [("sources.list", sources), ("status", ""), ("apt.conf", &config)] {
        fs::write(apt.join(name), text).with_context(|| format!("write {}", apt.join(name).display()))?;
    }
    Ok(apt.join("apt.conf"))
}

/// A program of apt's with that configuration, beside the host's own for proxies and the like.
fn own_apt(program: &str, config: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("APT_CONFIG", config).env("LC_ALL", "C").env_remove("LD_LIBRARY_PATH");
    command
}

/// The first dependency in a package's description whose name begins with `prefix`.
fn depends_on(description: &str, prefix: &str) -> Option<String> {
    let depends = description.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let mut names = depends.split([',', '|']).filter_map(|part| part.split_whitespace().next());
    names.find(|name| name.starts_with(prefix)).map(String::from)
}

/// The packages that a simulated installation would unpack, with their versions.
fn missing(plan: &str) -> Vec<String> {
    let lines = plan.lines().filter_map(|line| line.strip_prefix("Inst "));
    lines
        .filter_map(|line| {
            let name = line.split_whitespace().next()?;
            let version = line.split_once('(')?.1.split_whitespace().next()?;
            Some(format!("{name}={version}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_of_debian_are_known_by_their_origin_and_named_once() {
        let text = "http://mirror.example/debian/|bookworm|main|Debian\n\
            http://mirror.example/debian/|bookworm-updates|main|Debian\n\
            http://mirror.example/debian-security/|bookworm-security|main|Debian\n\
            http://mirror.example/debian/|bookworm|contrib|Debian\n\
            https://vendor.example/|nodistro|main|Vendor\nnonsense\n";
        let found = parse_mirrors(text);
        let mirror = |address: &str, security| Mirror { address: address.into(), security };
        assert_eq!(
            found,
            [mirror("http://mirror.example/debian/", false), mirror("http://mirror.example/debian-security/", true)]
        );
        let lines = sources("trixie", &found);
        assert!(lines.lines().all(|line| line.starts_with("deb [target=Packages")), "{lines}");
        assert!(lines.contains("] http://mirror.example/debian/ trixie main\n"), "{lines}");
        assert!(lines.contains("] http://mirror.example/debian-security/ trixie-security main\n"), "{lines}");
    }

    #[test]
    fn the_kernels_package_is_what_the_meta_package_depends_on() {
        let description =
            "Package: linux-image-cloud-amd64\nDepends: a | b, linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)\n";
        assert_eq!(depends_on(description, "linux-image-").as_deref(), Some("linux-image-6.1.0-50-cloud-amd64"));
        assert_eq!(depends_on("Package: a\nDepends: b\n", "linux-image-"), None);
        assert_eq!(depends_on("Package: linux-image-6.1\n", "linux-image-"), None);
    }

    #[test]
    fn what_an_installation_would_unpack_is_downloaded_in_that_version() {
        let plan = "Remv qemu-utils [1:10.0]\nInst seabios (1.16.2-1 Debian:12.15/oldstable [all])\n\
            Inst liborc-0.4-0 [1:0.4.30] (1:0.4.33-2 Debian:12.15/oldstable [amd64])\n\
            Conf seabios (1.16.2-1 Debian:12.15/oldstable [all])\n";
        assert_eq!(missing(plan), ["seabios=1.16.2-1", "liborc-0.4-0=1:0.4.33-2"]);
    }

    #[test]
    fn an_interrupted_unpacking_is_not_complete() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_complete(dir.path()));
        fs::write(dir.path().join(CONTENTS), "a\n").unwrap();
        assert!(is_complete(dir.path()));
    }
}
