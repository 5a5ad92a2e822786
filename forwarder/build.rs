//! Finds the kernel programs that `cargo xtask build` has made, to embed them.

use std::{
    env,
    path::{Path, PathBuf},
};

fn main() {
    println!("cargo::rerun-if-env-changed=FORWARDER_EBPF");
    let object = env::var_os("FORWARDER_EBPF").map(PathBuf::from).or_else(beside_the_build);
    match object {
        Some(object) if object.is_file() => {
            println!("cargo::rerun-if-changed={}", object.display());
            println!("cargo::rustc-env=FORWARDER_EBPF={}", object.display());
        }
        _ => println!("cargo::error=the kernel programs are not built; hint: run `cargo xtask build` first"),
    }
}

/// `<target directory>/ebpf/forwarder-ebpf`, seen from the build script's output directory.
fn beside_the_build() -> Option<PathBuf> {
    let out = env::var_os("OUT_DIR")?;
    Path::new(&out).ancestors().map(|folder| folder.join("ebpf/forwarder-ebpf")).find(|object| object.is_file())
}
