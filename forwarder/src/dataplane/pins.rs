//! What lies in the BPF file system, and the clean-up of a start that fails.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, MetadataExt as _, symlink},
        },
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    maps::MapData,
    programs::{TcAttachType, tc},
};
use forwarder_common::abi;
use rustix::fs::{FlockOperation, flock};

use super::{
    links::{Link, xdp_program},
    object::EGRESS,
};
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
/// A link in the pin folder that leads nowhere and names the daemon that has started last: its network namespace and
/// its process. The file system of BPF has no files to write this into.
const OWNER: &str = "owner";
/// Bits of a folder's mode: its group or others may write, and in such a folder only the owner of a name may change it.
const WRITABLE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// The pin folder of a start.
#[derive(Debug)]
pub(super) struct Pins {
    dir: PathBuf,
    /// Files and folders that this start has made, in order.
    made: Vec<PathBuf>,
    /// Interfaces to whose clsact qdisc this start has added a filter.
    filters: Vec<String>,
    kept: bool,
    /// Locked as long as it is open: no two daemons have one pin folder.
    _lock: OwnedFd,
}

impl Pins {
    /// Makes the folders, on a BPF file system that is mounted if need be, and drops maps of another size.
    ///
    /// # Errors
    /// A folder is somebody else's, another daemon runs with it, or its programs serve another network namespace.
    pub(super) fn open(dir: &Path, buckets: u32) -> Result<Self> {
        mount(dir)?;
        let is_new = make(dir)?;
        // From here on by a name that nobody but root can lead elsewhere.
        let real = fs::canonicalize(dir).with_context(|| format!("find pin_dir {}", dir.display()))?;
        let use_it = || format!("use pin_dir {}", dir.display());
        ensure_ours(&real).with_context(use_it)?;
        let lock = lock(&real).with_context(use_it)?;
        let made = if is_new { vec![real.clone()] } else { Vec::new() };
        let mut pins = Self { dir: real, made, filters: Vec::new(), kept: false, _lock: lock };
        for folder in [pins.maps(), pins.links()] {
            if make(&folder)? {
                pins.made.push(folder);
            } else {
                ensure_own(&folder)
                    .and_then(|()| list(&folder)?.iter().try_for_each(|pin| ensure_own(pin)))
                    .with_context(use_it)?;
            }
        }
        pins.ensure_here().with_context(use_it)?;
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

    /// Programs that are attached in another network namespace are another daemon's, though it may not run now.
    fn ensure_here(&self) -> Result<()> {
        for pin in list(&self.links())? {
            let Some(interface) = pin.file_name().and_then(|name| name.to_str()?.strip_prefix("xdp-")) else {
                continue;
            };
            // One that cannot be read, or holds nothing, is replaced when this start attaches.
            let Some(held) = Link::open(&pin).and_then(|link| link.held()).ok().filter(|held| held.ifindex != 0) else {
                continue;
            };
            if xdp_program(held.ifindex)? != Some(held.program) {
                let interface = interface.split_once(':').map_or(interface, |(_, name)| name).replace("%2e", ".");
                let owner = owner(&self.dir).unwrap_or_else(|| "another network namespace".to_owned());
                bail!(
                    "its programs serve interface {interface} of {owner}, and this is {}; hint: give each forwarder a \
                     `pin_dir` of its own, or take those programs off with `forwarder detach --pin-dir {}`",
                    namespace(),
                    self.dir.display()
                );
            }
        }
        Ok(())
    }

    fn maps(&self) -> PathBuf {
        self.dir.join(format!("v{}", abi::VERSION))
    }

    fn links(&self) -> PathBuf {
        self.dir.join("links")
    }

    /// Where each map is pinned.
    pub(super) fn map_paths(&self) -> Vec<(&'static str, PathBuf)> {
        PINNED.iter().map(|name| (*name, self.maps().join(name))).collect()
    }

    /// Where a link is pinned. Dots are not allowed in bpffs names, but interfaces have them.
    pub(super) fn link(&self, interface: &str, kind: &str) -> PathBuf {
        self.links().join(format!("{kind}:{}", interface.replace('.', "%2e")))
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

    /// The start has succeeded: the folder names this daemon, and maps of other versions, which no program uses any
    /// more, go.
    pub(super) fn keep(&mut self) {
        self.kept = true;
        let path = self.dir.join(OWNER);
        let named = format!("{}, process {}", namespace(), std::process::id());
        if let Err(error) = remove(&path).and_then(|_| Ok(symlink(named, &path)?)) {
            log::warn!("say in {} whose it is: {error:#}", path.display());
        }
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
        if entry.is_symlink() {
            remove(&entry)?;
        }
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

/// Detaches a pinned link. What cannot be detached so, such as the link of an interface that is gone, goes with its
/// pin.
fn detach_link(pin: &Path) {
    if let Err(error) = Link::open(pin).and_then(|link| link.detach()) {
        log::debug!("detach {}: {error}", pin.display());
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    entries.map(|entry| Ok(entry.with_context(|| format!("read {}", folder.display()))?.path())).collect()
}

/// Makes a folder for this user alone, with what is missing above it; whether it was missing.
fn make(folder: &Path) -> Result<bool> {
    if folder.exists() {
        return Ok(false);
    }
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("make pin folder {}", folder.display()))?;
    Ok(true)
}

/// Fails unless the folder is root's or this user's and writable for nobody else, and so all above it, where the sticky
/// bit will do.
fn ensure_ours(folder: &Path) -> Result<()> {
    ensure_own(folder)?;
    for above in folder.ancestors().skip(1) {
        let about = fs::metadata(above).with_context(|| format!("look at {}", above.display()))?;
        if !is_trusted(about.uid()) || (about.mode() & WRITABLE != 0 && about.mode() & STICKY == 0) {
            bail!(
                "others may put a folder of theirs in its place, for {} is user {}'s with mode {:03o}; hint: choose a \
                 `pin_dir` below {BPF_MOUNT}",
                above.display(),
                about.uid(),
                about.mode() & 0o1777
            );
        }
    }
    Ok(())
}

/// Fails unless a folder or a pin is root's or this user's and writable for nobody else.
fn ensure_own(path: &Path) -> Result<()> {
    let about = fs::symlink_metadata(path).with_context(|| format!("look at {}", path.display()))?;
    let hint = "hint: somebody else may have made it: remove it, or choose another `pin_dir`";
    if !is_trusted(about.uid()) {
        bail!("{} belongs to user {}; {hint}", path.display(), about.uid());
    }
    if about.mode() & WRITABLE != 0 {
        bail!("others may write to {} (mode {:03o}); {hint}", path.display(), about.mode() & 0o777);
    }
    Ok(())
}

fn is_trusted(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

/// Locks the folder for as long as what is returned is open.
fn lock(folder: &Path) -> Result<OwnedFd> {
    let opened = OwnedFd::from(fs::File::open(folder).context("open it")?);
    match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(opened),
        Err(rustix::io::Errno::WOULDBLOCK) => bail!(
            "another forwarder runs with it: {}; hint: stop that one, or give each a `pin_dir` of its own",
            owner(folder).unwrap_or_else(|| "it has only just started".to_owned())
        ),
        Err(error) => Err(error).context("lock it"),
    }
}

/// The network namespace and the process of the daemon that has started last with a pin folder.
fn owner(folder: &Path) -> Option<String> {
    Some(fs::read_link(folder.join(OWNER)).ok()?.to_string_lossy().into_owned())
}

/// The network namespace of this thread, as `lsns` and `ls -l /proc/PID/ns` name it.
fn namespace() -> String {
    let link = fs::read_link("/proc/thread-self/ns/net");
    let link = link.map(|link| link.to_string_lossy().into_owned());
    format!("network namespace {}", link.unwrap_or_else(|_| "of no known name".to_owned()))
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
    let (kind, target, options) = (c"bpf", c"/sys/fs/bpf", c"mode=0700");
    // SAFETY: all strings end with NUL and live through the call.
    let result = unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) };
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
