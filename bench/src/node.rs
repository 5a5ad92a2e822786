//! A real daemon beside the bench: started, stopped, and looked at through its pinned maps and /proc.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Map, MapData};
use forwarder::identity::{init, issue};
use forwarder_common::{abi, ids::NodeId};

use crate::kernel::{Table, buckets};

/// How long a daemon may take for whatever it is asked.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The nodes' certificates, configurations and pins.
pub(crate) struct Folder {
    dir: tempfile::TempDir,
    /// The daemon's binary.
    binary: PathBuf,
}

impl Folder {
    /// Certificates for two nodes.
    pub(crate) fn make(binary: &Path) -> Result<Self> {
        let dir = tempfile::tempdir().context("make a folder for certificates")?;
        init(dir.path(), "bench")?;
        for node in [1, 2] {
            issue(dir.path(), NodeId::new(node).context("name a node")?, underlay(node))?;
        }
        Ok(Self { dir, binary: binary.to_owned() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pins(node: u16) -> PathBuf {
        PathBuf::from(format!("/sys/fs/bpf/forwarder-bench-{}-{node}", std::process::id()))
    }

    /// Starts a node that attaches to an interface, with room for so many claims.
    pub(crate) fn start(&self, node: u16, interface: &str, claims: u32) -> Result<Node> {
        let (me, other) = (underlay(node), underlay(3 - node));
        let (pins, control) = (Self::pins(node), self.path(&format!("{node}.sock")));
        let text = format!(
            r#"node = {node}
interfaces = ["{interface}"]
underlay = "{me}"
pin_dir = "{}"
control = "{}"
claims = {claims}
[[service]]
vip = "192.0.2.10"
port = 5060
[cluster]
name = "bench"
listen = "{me}:7470"
seeds = ["{other}:7470"]
ca = "ca.pem"
certificate = "node-{node}.pem"
key = "node-{node}.key"
secret = "cluster.secret"
"#,
            pins.display(),
            control.display()
        );
        let config = self.path(&format!("{node}.toml"));
        fs::write(&config, text).context("write a configuration")?;
        let log = fs::File::create(self.path(&format!("{node}.log"))).context("make a log")?;
        let mut command = Command::new(&self.binary);
        command.args(["run", "--config"]).arg(&config).env("RUST_LOG", "warn").stdin(Stdio::null());
        let process = command.stdout(Stdio::null()).stderr(log).spawn().context("start the daemon")?;
        let binary = self.binary.clone();
        let mut node = Node { process, control, pins, binary, maps: None };
        let buckets = buckets(claims);
        let started = wait("a daemon has started", || {
            if let Some(status) = node.process.try_wait()? {
                bail!("the daemon ended with {status}");
            }
            Ok(node.status().is_ok())
        });
        started.with_context(|| fs::read_to_string(self.path("1.log")).unwrap_or_default())?;
        node.maps = Some(Maps::open(&node.pins, buckets)?);
        Ok(node)
    }
}

/// Where the nodes find each other: on the loopback.
pub(crate) fn underlay(node: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 9, 0, node as u8))
}

/// Waits until it is so.
pub(crate) fn wait(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    while !is_so()? {
        ensure!(start.elapsed() < TIMEOUT, "wait until {what}: not within {} s", TIMEOUT.as_secs());
        thread::sleep(Duration::from_micros(200));
    }
    Ok(start.elapsed())
}

struct Maps {
    ring: Ring,
    table: Table,
}

impl Maps {
    fn open(pins: &Path, buckets: u32) -> Result<Self> {
        let dir = pins.join(format!("v{}", abi::VERSION));
        let open =
            |name: &str| MapData::from_pin(dir.join(name)).with_context(|| format!("open the pinned map {name}"));
        let Ok(Map::Array(claims)) = Map::from_map_data(open("CLAIMS")?) else { bail!("open CLAIMS: it is no array") };
        Ok(Self { ring: Ring::open(&open("EVENTS")?)?, table: Table::map(&claims, buckets)? })
    }
}

/// How far writers and reader of a ring buffer are: its first two pages (BPF_MAP_TYPE_RINGBUF of the kernel's
/// documentation).
struct Ring {
    read: &'static AtomicU64,
    written: &'static AtomicU64,
}

impl Ring {
    fn open(map: &MapData) -> Result<Self> {
        let page = |number: libc::off_t| {
            let fd = map.fd().as_fd().as_raw_fd();
            // SAFETY: a new shared mapping of one page; the kernel checks that the map has it.
            let memory =
                unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, fd, number * 4096) };
            ensure!(memory != libc::MAP_FAILED, "look into a ring buffer: {}", std::io::Error::last_os_error());
            // SAFETY: a page is larger and aligned, the kernel writes the word at once, and it is never unmapped.
            Ok(unsafe { &*memory.cast::<AtomicU64>() })
        };
        Ok(Self { read: page(0)?, written: page(1)? })
    }
}

/// A running daemon.
pub(crate) struct Node {
    process: Child,
    control: PathBuf,
    pins: PathBuf,
    binary: PathBuf,
    maps: Option<Maps>,
}

impl Node {
    /// Its status.
    pub(crate) fn status(&self) -> Result<serde_json::Value> {
        let mut command = Command::new(&self.binary);
        let output =
            command.args(["status", "--json", "--control"]).arg(&self.control).output().context("ask a daemon")?;
        ensure!(output.status.success(), "ask a daemon: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("read a status")
    }

    /// Waits until it has a link to the other one.
    pub(crate) fn wait_linked(&self) -> Result<()> {
        wait("the daemons are linked", || {
            thread::sleep(Duration::from_millis(50));
            Ok(self.status()?.pointer("/peers/0/link").and_then(|link| link.as_str()) == Some("up"))
        })?;
        Ok(())
    }

    /// Packets with this outcome.
    pub(crate) fn outcome(&self, name: &str) -> Result<u64> {
        let status = self.status()?;
        status.get("outcomes").and_then(|outcomes| outcomes.get(name)?.as_u64()).context("find an outcome")
    }

    /// Bytes of events that its ring buffer holds.
    pub(crate) fn waiting(&self) -> u64 {
        let Some(Maps { ring, .. }) = &self.maps else { return 0 };
        let read = ring.read.load(Ordering::Acquire);
        ring.written.load(Ordering::Acquire).saturating_sub(read)
    }

    /// Claims of an owner in its table.
    pub(crate) fn claims_of(&self, owner: u16) -> usize {
        self.maps.as_ref().map_or(0, |maps| maps.table.claims_of(owner))
    }

    /// Bytes of its table.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.maps.as_ref().map_or(0, |maps| (u64::from(maps.table.mask()) + 1) * 64)
    }

    /// CPU time of all its threads, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> Result<u64> {
        self.schedstat(0)
    }

    /// How long its threads were ready to run and had no CPU, in nanoseconds.
    pub(crate) fn waited_ns(&self) -> Result<u64> {
        self.schedstat(1)
    }

    fn schedstat(&self, column: usize) -> Result<u64> {
        let path = format!("/proc/{}/task", self.process.id());
        let threads = fs::read_dir(&path).with_context(|| format!("read {path}"))?.flatten();
        let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
        Ok(texts.filter_map(|text| text.split(' ').nth(column)?.parse::<u64>().ok()).sum())
    }

    /// Bytes of memory that it holds by itself; the mapped table is none of them.
    pub(crate) fn memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.process.id());
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let anonymous = text
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(anonymous.with_context(|| format!("find RssAnon in {path}"))? * 1024)
    }

    /// Holds it, or lets it go on.
    pub(crate) fn hold(&self, hold: bool) {
        let signal = if hold { libc::SIGSTOP } else { libc::SIGCONT };
        // SAFETY: a signal to a child that has not been waited for.
        unsafe { libc::kill(self.process.id().cast_signed(), signal) };
    }

    /// Ends it and takes its programs away.
    pub(crate) fn stop(mut self) -> Result<()> {
        // SAFETY: as above.
        unsafe { libc::kill(self.process.id().cast_signed(), libc::SIGTERM) };
        let status = self.process.wait().context("wait for a daemon")?;
        ensure!(status.success(), "end a daemon: {status}");
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.pins);
    }
}
