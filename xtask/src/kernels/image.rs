//! The first file system of a guest: its first process, the programs to run with their libraries, and modules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::cpio::Archive;
use crate::project::find_command;
use crate::run::output;

/// Modules that the tests need, in the order in which they are loaded: a virtual link, and what carries TC programs.
const MODULES: [&str; 3] = ["veth", "sch_ingress", "cls_bpf"];
/// Folders of the guest that something is mounted on.
const MOUNT_POINTS: [&str; 4] = ["proc", "sys", "dev", "tmp"];

/// What runs in a guest.
pub(super) struct Contents {
    /// Its first process: `xtask/examples/guest.rs`.
    pub(super) init: PathBuf,
    /// What it runs, one after the other.
    pub(super) programs: Vec<Program>,
    /// What those start themselves, by its name in the guest's root.
    pub(super) started: Vec<(&'static str, PathBuf)>,
    /// Files, by their paths without the first slash.
    pub(super) files: Vec<(&'static str, &'static str)>,
}

/// A program and how to call it.
pub(super) struct Program {
    /// Its name, in the guest's root.
    pub(super) name: &'static str,
    pub(super) file: PathBuf,
    pub(super) arguments: &'static [&'static str],
}

impl Program {
    /// How a guest is told to run it.
    pub(super) fn command(&self) -> String {
        [&[self.name], self.arguments].concat().join(" ")
    }
}

/// Writes the archive for a kernel whose package is unpacked in `kernel`.
pub(super) fn write(contents: &Contents, kernel: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    let mut libraries = BTreeSet::new();
    let programs = contents.programs.iter().map(|program| (program.name, &program.file));
    let started = contents.started.iter().map(|(name, file)| (*name, file));
    let programs = programs.chain(started).chain([("init", &contents.init)]);
    for (name, file) in programs {
        libraries.extend(shared_libraries(file)?);
        archive.file(name, &stripped(file, scratch)?).context("write the archive")?;
    }
    for library in &libraries {
        let path = library.strip_prefix("/").unwrap_or(library).to_str().context("name a library")?;
        archive.file(path, &read(library)?).context("write the archive")?;
    }
    for (place, name) in MODULES.iter().enumerate() {
        // A kernel may have it built in.
        if let Some(module) = find_module(kernel, name) {
            let file = module.file_name().and_then(|file| file.to_str()).unwrap_or(name);
            archive.file(&format!("modules/{place}-{file}"), &read(&module)?).context("write the archive")?;
        }
    }
    for place in MOUNT_POINTS {
        archive.directory(place).context("write the archive")?;
    }
    // The kernel opens it for the first process before anything is mounted.
    archive.device("dev/console", 5, 1).context("write the archive")?;
    for (name, text) in &contents.files {
        archive.file(name, text.as_bytes()).context("write the archive")?;
    }
    let commands: String = contents.programs.iter().map(|program| program.command() + "\n").collect();
    archive.file("commands", commands.as_bytes()).context("write the archive")?;
    archive.finish().context("write the archive")
}

/// The libraries and the loader that a program asks for.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = output(Command::new("ldd").arg(program).env_remove("LD_LIBRARY_PATH"))
        .with_context(|| format!("list the libraries of {}; hint: is `ldd` installed?", program.display()))?;
    Ok(parse_ldd(&text))
}

/// Paths in the output of ldd(1): `name => path (address)` or `path (address)`.
fn parse_ldd(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

/// A program without its debug information, which would be most of the archive.
fn stripped(program: &Path, scratch: &Path) -> Result<Vec<u8>> {
    if find_command("strip").is_none() {
        return read(program);
    }
    let copy = scratch.join("stripped");
    let done = output(Command::new("strip").arg("-o").arg(&copy).arg(program));
    read(if done.is_some() { &copy } else { program })
}

/// The file of a module, compressed or not.
fn find_module(kernel: &Path, name: &str) -> Option<PathBuf> {
    let mut folders = vec![kernel.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if is_module(&path, name) {
                return Some(path);
            }
        }
    }
    None
}

fn is_module(path: &Path, name: &str) -> bool {
    let file = path.file_name().and_then(|file| file.to_str()).and_then(|file| file.strip_prefix(name));
    file.is_some_and(|rest| rest == ".ko" || rest.starts_with(".ko."))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_paths_that_ldd_names() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected =
            ["/lib/x86_64-linux-gnu/libgcc_s.so.1", "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_ldd(text), expected.map(PathBuf::from));
        assert!(parse_ldd("\tstatically linked\n").is_empty());
    }

    #[test]
    fn a_module_is_found_compressed_or_not_and_by_its_whole_name() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("lib/modules/6.1/kernel");
        fs::create_dir_all(&deep).unwrap();
        for file in ["veth.ko.xz", "cls_bpf.ko", "cls_bpf_more.ko"] {
            fs::write(deep.join(file), "").unwrap();
        }
        assert_eq!(find_module(dir.path(), "veth"), Some(deep.join("veth.ko.xz")));
        assert_eq!(find_module(dir.path(), "cls_bpf"), Some(deep.join("cls_bpf.ko")));
        assert_eq!(find_module(dir.path(), "sch_ingress"), None);
    }
}
