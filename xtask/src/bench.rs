//! `cargo xtask bench`: builds the yardsticks beside the programs, then has the crate `bench` measure both; with
//! `--cluster` first, its `bench_cluster` measures two daemons and their link, and with `--links 300` one daemon with
//! so many linked peers.

use std::ffi::OsString;

use anyhow::Result;

use crate::build::build;
use crate::ebpf;
use crate::project::{Project, is_root, need_root};
use crate::run::{become_command, say};
use crate::setup::Need;

/// Measures, with these arguments of the runner; two results are compared without a build of the programs, and by
/// anyone.
pub(crate) fn bench(project: &Project, args: &[OsString]) -> Result<()> {
    let is_of_links = args.first().is_some_and(|first| first == "--cluster" || first == "--links");
    if is_of_links {
        need_root("make a network namespace")?;
        build(project, Need::Build)?;
        say("bench of daemons and links");
        let mut cargo = project.cargo();
        cargo.args(["run", "--quiet", "--release", "--package", "bench", "--bin", "bench_cluster", "--"]);
        return Err(become_command(cargo.args(args.iter().filter(|arg| *arg != "--cluster"))));
    }
    let only_compares = args.iter().any(|arg| arg == "--compare" || arg == "--help");
    if !only_compares || !project.ebpf_object().is_file() {
        need_root("load programs into the kernel")?;
    }
    let mut cargo = project.cargo();
    cargo.args(["run", "--quiet", "--release", "--package", "bench", "--bin", "bench", "--"]);
    if is_root() && !only_compares {
        let toolchain = build(project, Need::Build)?;
        let [yardstick, lru] = ebpf::build_yardsticks(project, &toolchain)?;
        cargo.arg("--yardstick").arg(yardstick).arg("--lru").arg(lru).arg("--forwarder").arg(project.forwarder());
    }
    say("bench");
    Err(become_command(cargo.args(args)))
}
