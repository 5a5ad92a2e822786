//! `cargo xtask build`: the programs and the daemon, with what they need.

use anyhow::Result;

use crate::ebpf;
use crate::project::{Project, ROOM_MIB};
use crate::run::{SEE_ABOVE, run, say};
use crate::setup::{Need, Toolchain, setup};

pub(crate) fn need(lab: bool) -> Need {
    if lab { Need::Lab } else { Need::Build }
}

/// Builds the eBPF programs, then the daemon that embeds them.
pub(crate) fn build(project: &Project, need: Need) -> Result<Toolchain> {
    ebpf::check_architecture()?;
    if let Some(room) = project.little_room() {
        let place = project.target().display();
        say(format_args!("WARNING: {room} MiB are free for {place}, and a first build and test write {ROOM_MIB}"));
    }
    let toolchain = setup(project, need)?;
    ebpf::build(project, &toolchain)?;
    run("build the daemon", SEE_ABOVE, project.cargo().args(["build", "--release", "--package", "forwarder"]))?;
    Ok(toolchain)
}
