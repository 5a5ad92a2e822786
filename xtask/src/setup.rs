//! Finds or installs what building, testing and the demo need, and says what it does.
//!
//! Idempotent, and quick when all is there. It never removes a package, and asks for root only when a package of
//! Debian's is missing; what belongs to the project alone goes into `.tools`.

mod apt;
mod crates_io;
mod deny;
mod linker;
mod toolchain;

use anyhow::{Result, bail};

use crate::pins;
use crate::project::{Project, find_command};
use crate::run::say;

pub(crate) use deny::install as install_deny;
pub(crate) use linker::linker_path;
pub(crate) use toolchain::{Toolchain, nightlies};

/// How much must be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The eBPF compiler and linker.
    Build,
    /// Those, and what the network namespaces run.
    Lab,
}

/// Makes sure that all of it is there; the toolchain that builds eBPF.
pub(crate) fn setup(project: &Project, need: Need) -> Result<Toolchain> {
    let wanted = toolchain::Preference::from_env()?;
    let found = match toolchain::find(wanted) {
        Some(found) => Some(found),
        None => toolchain::try_rustup(project, wanted),
    };
    let mut packages = match need {
        Need::Build => Vec::new(),
        Need::Lab => missing_lab_packages(),
    };
    if found.is_none() && wanted != toolchain::Preference::Rustup {
        packages.extend(pins::DEBIAN_TOOLCHAIN);
    }
    if !packages.is_empty() {
        apt::install(project, &packages)?;
    }
    let Some(mut toolchain) = found.or_else(|| toolchain::find(wanted)) else {
        bail!(toolchain::nothing_found(wanted))
    };
    toolchain.set_llvm_apart(project.tools().join("llvm"))?;
    if need == Need::Lab {
        let missing = missing_lab_packages();
        if !missing.is_empty() {
            bail!("find the commands of {} after their installation; hint: is /usr/bin in PATH?", missing.join(", "));
        }
    }
    linker::install(project, &toolchain)?;
    say(format_args!("eBPF toolchain: {}; bpf-linker {}", toolchain.name(), pins::BPF_LINKER));
    Ok(toolchain)
}

/// Tries to get clippy for the eBPF toolchain, where that is one of Debian's packages.
pub(crate) fn try_clippy(project: &Project, toolchain: &Toolchain) {
    if toolchain.is_debian()
        && toolchain.clippy().is_none()
        && let Err(error) = apt::install(project, &[pins::DEBIAN_CLIPPY])
    {
        say(format_args!("no clippy for eBPF: {error:#}"));
    }
}

fn missing_lab_packages() -> Vec<&'static str> {
    pins::LAB.iter().filter(|(command, _)| find_command(command).is_none()).map(|(_, package)| *package).collect()
}
