//! What lies in the BPF file system, and the clean-up of a start that fails.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    maps::MapData,
    programs::{TcAttachType, tc},
};
use forwarder_common::abi;

use super::object::EGRESS;
use crate::config;

/// Maps that outlive the daemon.
const PINNED: [&str; 13] = [
    "CONFIG",
    "SERVICES",
    "PORTS",
    "NODES",
    "PEERS",
    "CLAIMS",
    "KEYS",
    "STATISTICS",
    "EVENTS",
    "PUNTS",
    "REASSEMBLERS",
    "SUCCESSORS",
    "LEASE",
];
/// Where BPF file systems are mounted by custom.
const BPF_MOUNT: &str = "/sys/fs/bpf";

/// The pin folder of a start.
#[derive(Debug)]
pub(super) struct Pins {
    dir: PathBuf,
    /// Files and folders that this start has made, in order.
    made: Vec<PathBuf>,
    /// Interfaces to whose clsact qdisc this start has added a filter.
    filters: Vec<String>,
    kept: bool,
}

impl Pins {
    /// Makes the folders, on a BPF file system that is mounted if need be, and drops maps of another size.
    pub(super) fn open(dir: &Path, buckets: u32) -> Result<Self> {
        mount(dir)?;
        let mut pins = Self { dir: dir.to_owned(), made: Vec::new(), filters: Vec::new(), kept: false };
        let maps = pins.maps();
        for folder in [dir.to_owned(), maps.clone(), pins.dir.join("links")] {
            if !folder.exists() {
                fs::create_dir_all(&folder).with_context(|| format!("make pin folder {}", folder.display()))?;
                pins.made.push(folder);
            }
        }
        pins.drop_of_other_size(buckets)?;
        for (_, path) in pins.map_paths() {
            if !path.exists() {
                pins.made.push(path);
            }
        }
        Ok(pins)
    }

    /// Removes the claim table and the keys beside it if either is not of so many buckets.
    fn drop_of_other_size(&self, buckets: u32) -> Result<()> {
        let paths = ["CLAIMS", "KEYS"].map(|name| self.maps().join(name));
        let size = |path: &PathBuf| {
            let open = || format!("open {}", path.display());
            Ok(MapData::from_pin(path).with_context(open)?.info().with_context(open)?.max_entries())
        };
        let sizes = paths.iter().filter(|path| path.exists()).map(size).collect::<Result<Vec<u32>>>()?;
        let Some(before) = sizes.iter().find(|size| **size != buckets) else { return Ok(()) };
        log::warn!("the claim table changes from {before} to {buckets} buckets: claims start anew");
        paths.iter().try_for_each(|path| remove(path).map(drop))
    }

    fn maps(&self) -> PathBuf {
        self.dir.join(format!("v{}", abi::VERSION))
    }

    /// Where each map is pinned.
    pub(super) fn map_paths(&self) -> Vec<(&'static str, PathBuf)> {
        PINNED.iter().map(|name| (*name, self.maps().join(name))).collect()
    }

    /// Where a link is pinned. Dots are not allowed in bpffs names, but interfaces have them.
    pub(super) fn link(&self, interface: &str, kind: &str) -> PathBuf {
        self.dir.join("links").join(format!("{kind}:{}", interface.replace('.', "%2e")))
    }

    /// Detaches XDP links of this interface in another mode than `kind`.
    pub(super) fn remove_other(&self, interface: &str, kind: &str) -> Result<()> {
        for other in ["xdp-native", "xdp-generic"].into_iter().filter(|other| *other != kind) {
            remove(&self.link(interface, other))?;
        }
        Ok(())
    }

    /// Remembers a pin that this start has made.
    pub(super) fn made(&mut self, path: PathBuf) {
        self.made.push(path);
    }

    /// Remembers a filter that this start has added.
    pub(super) fn made_filter(&mut self, interface: &str) {
        self.filters.push(interface.to_owned());
    }

    /// The start has succeeded: maps of other versions, which no program uses any more, go.
    pub(super) fn keep(&mut self) {
        self.kept = true;
        for folder in list(&self.dir).unwrap_or_default() {
            let version = folder.file_name().and_then(|name| name.to_str()?.strip_prefix('v')?.parse::<u32>().ok());
            let Some(version) = version.filter(|version| *version != abi::VERSION) else { continue };
            let removed = list(&folder).and_then(|pins| {
                pins.iter().try_for_each(|pin| remove(pin).map(drop))?;
                Ok(fs::remove_dir(&folder)?)
            });
            match removed {
                Ok(()) => log::warn!(
                    "maps of version {version} are replaced by those of version {}: claims start anew",
                    abi::VERSION
                ),
                Err(error) => log::warn!("remove maps of version {version}: {error:#}"),
            }
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for interface in &self.filters {
            let _ = tc::qdisc_detach_program(interface, TcAttachType::Egress, EGRESS);
        }
        for path in self.made.iter().rev() {
            let removed = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    log::warn!("remove {}: {error}", path.display());
                }
                _ => {}
            }
        }
    }
}

fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
    }
}

/// What [`detach`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Links and filters.
    pub programs: usize,
    /// Maps.
    pub maps: usize,
}

/// Detaches every program that was pinned in `pin_dir` and removes the pins.
///
/// # Errors
/// The folder cannot be read, or something in it not be removed.
pub fn detach(pin_dir: &Path) -> Result<Detached> {
    let mut detached = Detached::default();
    if !pin_dir.exists() {
        return Ok(detached);
    }
    for entry in list(pin_dir)? {
        let is_links = entry.file_name().is_some_and(|name| name == "links");
        if !entry.is_dir() {
            continue;
        }
        for pin in list(&entry)? {
            if is_links {
                detach_link(&pin);
            }
            remove(&pin)?;
            *(if is_links { &mut detached.programs } else { &mut detached.maps }) += 1;
        }
        fs::remove_dir(&entry).with_context(|| format!("remove {}", entry.display()))?;
    }
    fs::remove_dir(pin_dir).with_context(|| format!("remove {}", pin_dir.display()))?;
    for name in config::interfaces_present()? {
        if tc::qdisc_detach_program(&name, TcAttachType::Egress, EGRESS).is_ok() {
            detached.programs += 1;
        }
    }
    Ok(detached)
}

/// Detaches a pinned link at once: the kernel takes its time over one that is only let go of.
///
/// What cannot be detached so, such as the link of an interface that is gone, goes with its pin.
fn detach_link(pin: &Path) {
    const BPF_OBJ_GET: libc::c_long = 7;
    const BPF_LINK_DETACH: libc::c_long = 34;
    /// The members of `union bpf_attr` (linux/bpf.h) for these two commands.
    #[repr(C)]
    struct Attributes {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let Ok(name) = CString::new(pin.as_os_str().as_bytes()) else { return };
    let call = |command: libc::c_long, attributes: &Attributes| {
        // SAFETY: the attributes are of the form and the length that both commands read; the name lives through the
        // call.
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<Attributes>()) }
    };
    let opened = call(BPF_OBJ_GET, &Attributes { pathname: name.as_ptr() as u64, bpf_fd: 0, file_flags: 0 });
    let Ok(link) = i32::try_from(opened) else { return };
    if link < 0 {
        return;
    }
    // SAFETY: the kernel has just given this descriptor to nobody else.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    // The first member of the command's attributes is the link's descriptor, 32 bits.
    let detach = Attributes { pathname: u64::from(link.as_raw_fd().cast_unsigned()), bpf_fd: 0, file_flags: 0 };
    if call(BPF_LINK_DETACH, &detach) != 0 {
        log::debug!("detach {}: {}", pin.display(), io::Error::last_os_error());
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    entries.map(|entry| Ok(entry.with_context(|| format!("read {}", folder.display()))?.path())).collect()
}

/// Sees to it that `dir` is on a BPF file system.
fn mount(dir: &Path) -> Result<()> {
    let Some(existing) = dir.ancestors().find(|folder| folder.exists()) else {
        bail!("find pin_dir {}: no part of it exists", dir.display());
    };
    if is_bpffs(existing)? {
        return Ok(());
    }
    if !dir.starts_with(BPF_MOUNT) {
        bail!(
            "use pin_dir {}: it is on no BPF file system; hint: mount one there (`mount -t bpf bpf {}`), or choose a \
             folder below {BPF_MOUNT}",
            dir.display(),
            existing.display(),
        );
    }
    let (kind, target) = (c"bpf", c"/sys/fs/bpf");
    // SAFETY: all strings end with NUL and live through the call; no data is passed.
    let result = unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    if result != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("mount a BPF file system at {BPF_MOUNT}"));
    }
    log::info!("mounted a BPF file system at {BPF_MOUNT}");
    Ok(())
}

fn is_bpffs(path: &Path) -> Result<bool> {
    let name = CString::new(path.as_os_str().as_bytes()).context("use pin_dir: it has a NUL byte")?;
    let mut described = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the name ends with NUL, and the buffer is of the type that the call fills.
    let result = unsafe { libc::statfs(name.as_ptr(), described.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("look at {}", path.display()));
    }
    // SAFETY: zeroed integers are a value, and the call has succeeded.
    let described = unsafe { described.assume_init() };
    Ok(described.f_type == libc::BPF_FS_MAGIC)
}
