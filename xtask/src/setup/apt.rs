//! Debian's packages: reads the plan before it acts on it, and removes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::project::{Project, find_command, is_root};
use crate::run::{attempt, output, run_logged, say};

/// The file that tells Debian's package scripts whether they may start services.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// What this program writes there; found again if a run was interrupted.
const FORBID: &str = "#!/bin/sh\n# Written by the forwarder's `cargo xtask setup`, which removes it again.\nexit 101\n";

/// What `apt-get install` would do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    installs: Vec<String>,
    removes: Vec<String>,
}

/// Installs packages, without their recommendations and without starting their services.
pub(crate) fn install(project: &Project, packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if find_command("apt-get").is_none() {
        bail!("install {names}: this is no Debian; hint: install what they hold by hand, then run this again");
    }
    if !is_root() {
        bail!("install {names}: not root; hint: as root, run `apt-get install --no-install-recommends {names}`");
    }
    // Always: fresh lists may still be older than a source that was added, and a package missing happens once.
    update(project)?;
    let plan = plan(packages)?;
    if !plan.removes.is_empty() {
        bail!(
            "install {names}: apt would remove {}; hint: decide yourself with `apt-get install {names}`",
            plan.removes.join(", ")
        );
    }
    let policy = Policy::forbid_services()?;
    let what = format!("install {names} ({} packages of Debian's)", plan.installs.len());
    let mut command = apt();
    command.args(["install", "-y", "--no-install-recommends", "--no-remove"]).args(packages);
    let result = run_logged(&what, &project.log("apt-install")?, &mut command);
    drop(policy);
    result?;
    keep_services_off(&plan);
    Ok(())
}

fn update(project: &Project) -> Result<()> {
    let mut command = apt();
    command.args(["-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20", "update"]);
    // One unreachable source among several is common; whether it matters, the plan will tell.
    if let Err(error) = attempt("read Debian's lists of packages", &project.log("apt-update")?, None, &mut command) {
        say(format_args!("{error:#}"));
    }
    Ok(())
}

fn plan(packages: &[&str]) -> Result<Plan> {
    let mut command = apt();
    command.args(["install", "--simulate", "--no-install-recommends"]).args(packages);
    let Some(text) = output(&mut command) else {
        bail!("find {} in Debian's lists; hint: see what `apt-get update` says", packages.join(" "));
    };
    Ok(parse_plan(&text))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C")
        // cargo's own, in which Debian's programs would find other libraries than theirs.
        .env_remove("LD_LIBRARY_PATH");
    command
}

fn parse_plan(text: &str) -> Plan {
    let mut plan = Plan::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let list = match words.next() {
            Some("Inst") => &mut plan.installs,
            // A purge is announced by a word of its own.
            Some("Remv" | "Purg") => &mut plan.removes,
            _ => continue,
        };
        list.extend(words.next().map(String::from));
    }
    plan
}

/// While it lives, installed services are not started. A policy that is already there is left alone.
struct Policy {
    ours: bool,
}

impl Policy {
    fn forbid_services() -> Result<Self> {
        let path = Path::new(POLICY);
        if path.exists() {
            let ours = fs::read_to_string(path).is_ok_and(|text| text == FORBID);
            return Ok(Self { ours });
        }
        fs::write(path, FORBID).with_context(|| format!("write {POLICY}"))?;
        let policy = Self { ours: true };
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(|| format!("write {POLICY}"))?;
        Ok(policy)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            say(format_args!("remove {POLICY}: {error}; hint: remove it by hand, it keeps services from starting"));
        }
    }
}

/// The lab starts its own copies; a SIP proxy or BGP speaker that nobody asked for must not come up with the next boot.
fn keep_services_off(plan: &Plan) {
    for (package, service) in [("kamailio", "kamailio"), ("bird2", "bird")] {
        if plan.installs.iter().any(|name| name == package) && Path::new("/run/systemd/system").exists() {
            let quiet = Command::new("systemctl")
                .args(["disable", "--quiet", service])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if quiet.is_ok_and(|status| status.success()) {
                say(format_args!("{package} is installed for the lab; its service is switched off"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDS_ONLY: &str = "Reading package lists...\nBuilding dependency tree...\n\
        The following NEW packages will be installed:\n  cargo-web rustc-web\n\
        0 upgraded, 2 newly installed, 0 to remove and 24 not upgraded.\n\
        Inst rustc-web (1.96.0+dfsg1-1~deb12u2 Debian-Security:12/oldstable-security [amd64])\n\
        Inst cargo-web [1.85.0] (1.96.0+dfsg1-1~deb12u2 Debian-Security:12/oldstable-security [amd64])\n\
        Conf rustc-web (1.96.0+dfsg1-1~deb12u2 Debian-Security:12/oldstable-security [amd64])\n\
        Conf cargo-web (1.96.0+dfsg1-1~deb12u2 Debian-Security:12/oldstable-security [amd64])\n";

    const REMOVES: &str = "The following packages will be REMOVED:\n  cargo rustc\n\
        Remv cargo [0.66.0+ds1-1]\nRemv rustc [1.63.0+dfsg1-2]\n\
        Inst rustc-web (1.96.0+dfsg1-1~deb12u2 Debian-Security:12/oldstable-security [amd64])\n";

    #[test]
    fn a_plan_that_only_adds_names_what_it_adds() {
        assert_eq!(
            parse_plan(ADDS_ONLY),
            Plan { installs: vec!["rustc-web".into(), "cargo-web".into()], removes: Vec::new() }
        );
    }

    #[test]
    fn a_plan_that_removes_names_what_it_removes() {
        assert_eq!(parse_plan(REMOVES).removes, ["cargo", "rustc"]);
    }

    #[test]
    fn a_purge_counts_as_a_removal() {
        assert_eq!(parse_plan("Purg rustc [1.63.0+dfsg1-2]\n").removes, ["rustc"]);
    }

    #[test]
    fn no_line_of_prose_is_taken_for_a_step() {
        assert_eq!(parse_plan("Install these packages without verification?\nRemove nothing\n"), Plan::default());
    }
}
