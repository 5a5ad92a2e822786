//! Licences, bans, sources and advisories of all dependencies, by `cargo-deny` with `deny.toml`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::project::{Project, forget_own_environment};
use crate::run::{SEE_ABOVE, attempt, last_line, run};
use crate::setup;

/// How long the database of advisories may take to arrive: a few megabytes.
const DOWNLOAD: Duration = Duration::from_secs(60);
/// The crates with a lock file of their own, the workspace among them.
const LOCKED: [&str; 3] = ["Cargo.toml", "forwarder-ebpf/Cargo.toml", "fuzz/Cargo.toml"];
/// git's variables that have it give up where it would ask somebody, or where less than so many bytes a second arrive
/// for so many seconds.
const GIT: [(&str, &str); 3] =
    [("GIT_TERMINAL_PROMPT", "0"), ("GIT_HTTP_LOW_SPEED_LIMIT", "1000"), ("GIT_HTTP_LOW_SPEED_TIME", "15")];

/// Checks all of it; the reason if there was no database of advisories to check against.
pub(crate) fn check(project: &Project) -> Result<Option<String>> {
    let deny = setup::install_deny(project)?;
    each(project, &deny, "licences, bans and sources", &["licenses", "bans", "sources"])?;
    let log = project.log("advisories")?;
    let mut fetch = command(project, &deny, "Cargo.toml");
    if let Err(error) = attempt("fetch the advisories", &log, Some(DOWNLOAD), fetch.args(["fetch", "db"]).envs(GIT)) {
        return Ok(Some(last_line(&log).unwrap_or_else(|| error.to_string())));
    }
    each(project, &deny, "advisories", &["advisories"])?;
    Ok(None)
}

fn each(project: &Project, deny: &Path, what: &str, checks: &[&str]) -> Result<()> {
    for manifest in LOCKED {
        let mut command = command(project, deny, manifest);
        command.args(["check", "--hide-inclusion-graph"]).args(checks);
        run(&format!("{what} of {manifest}"), SEE_ABOVE, &mut command)?;
    }
    Ok(())
}

fn command(project: &Project, deny: &Path, manifest: &str) -> Command {
    let mut command = Command::new(deny);
    forget_own_environment(&mut command);
    command.current_dir(project.root()).args(["--locked", "--config"]).arg(project.root().join("deny.toml"));
    command.arg("--manifest-path").arg(project.root().join(manifest));
    command
}
