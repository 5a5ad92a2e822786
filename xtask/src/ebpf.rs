//! Builds the eBPF object and looks it over before anything embeds it.

mod object;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::pins;
use crate::project::Project;
use crate::run::{SEE_ABOVE, copy_if_changed, run, say};
use crate::setup::{Toolchain, linker_path};

/// What cargo puts between the flags of CARGO_ENCODED_RUSTFLAGS.
const FLAG_SEPARATOR: &str = "\x1f";

/// Builds `forwarder-ebpf` and puts the object where the daemon's build finds it.
pub(crate) fn build(project: &Project, toolchain: &Toolchain) -> Result<PathBuf> {
    let mut cargo = toolchain.cargo();
    cargo.arg("build");
    configure(&mut cargo, project);
    run("build the eBPF programs", SEE_ABOVE, &mut cargo)?;
    let built = target_dir(project).join(pins::EBPF_TARGET).join("release/forwarder-ebpf");
    let bytes = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    object::check(&bytes).with_context(|| format!("check {}", built.display()))?;
    let object = project.ebpf_object();
    if copy_if_changed(&built, &object)? {
        say(format_args!("eBPF object: {} ({} KiB)", object.display(), bytes.len() / 1024));
    }
    Ok(object)
}

/// Builds the programs that `bench` measures beside the forwarder's, which nothing else needs: the yardstick, and the
/// forwarder's ingress over another claim table.
pub(crate) fn build_yardsticks(project: &Project, toolchain: &Toolchain) -> Result<[PathBuf; 2]> {
    let mut cargo = toolchain.cargo();
    cargo.args(["build", "--bin", "yardstick", "--bin", "lru", "--features", "yardstick"]);
    configure(&mut cargo, project);
    run("build the yardsticks", SEE_ABOVE, &mut cargo)?;
    Ok(["yardstick", "lru"].map(|name| yardsticks(project).join(name)))
}

/// Where they are.
pub(crate) fn yardsticks(project: &Project) -> PathBuf {
    target_dir(project).join(pins::EBPF_TARGET).join("release")
}

/// Lints `forwarder-ebpf`; false where its toolchain has no clippy.
pub(crate) fn lint(project: &Project, toolchain: &Toolchain) -> Result<bool> {
    let Some(clippy) = toolchain.clippy() else { return Ok(false) };
    let mut command = toolchain.command(&clippy);
    command.arg("clippy");
    configure(&mut command, project);
    command.args(["--all-features", "--", "-D", "warnings"]);
    run("clippy of the eBPF programs", SEE_ABOVE, &mut command)?;
    Ok(true)
}

/// The manifest of the crate, which is no member of the workspace.
pub(crate) fn manifest(project: &Project) -> PathBuf {
    project.root().join("forwarder-ebpf/Cargo.toml")
}

fn configure(cargo: &mut Command, project: &Project) {
    cargo
        .args(["--release", "--target", pins::EBPF_TARGET, "-Z", "build-std=core", "--manifest-path"])
        .arg(manifest(project))
        .arg("--target-dir")
        .arg(target_dir(project))
        // Not the crate's own directory: cargo reads `.cargo/config.toml` from where it runs.
        .current_dir(project.root())
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&linker_path(project)).join(FLAG_SEPARATOR));
}

fn target_dir(project: &Project) -> PathBuf {
    project.target().join("ebpf-build")
}

fn flags(linker: &Path) -> [String; 5] {
    [
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".into(),
        // The kernel's targets read unaligned words; without it each word of a packet is eight loads.
        "-Ctarget-feature=+allows-misaligned-mem-access".into(),
        "-Cdebuginfo=2".into(),
    ]
}

/// Says why this machine cannot build eBPF, before the compiler says it in many words.
pub(crate) fn check_architecture() -> Result<()> {
    if cfg!(target_endian = "little") {
        Ok(())
    } else {
        bail!("build for {}: only little-endian machines are supported", env::consts::ARCH)
    }
}
