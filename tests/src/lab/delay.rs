//! A slow path through the router for one UDP port: a TUN device on which a thread holds each packet for a while.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::router::Router;
use crate::namespace::Namespace;

/// The router's device.
const DEVICE: &str = "slow";
/// Mark and routing table of the packets that take it.
const MARK: u32 = 77;
/// Most packets held; what comes beyond is lost, as on a real link.
const HELD: usize = 100_000;
/// `TUNSETIFF` of <linux/if_tun.h>.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// A delay, until dropped; then packets take the direct way again.
#[derive(Debug)]
pub struct Delay {
    router: Namespace,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Delay {
    /// Delays all UDP packets from or to `port` that cross the router.
    ///
    /// # Errors
    /// The kernel has no TUN device, or refuses.
    pub fn start(router: &Router, port: u16, by: Duration) -> Result<Self> {
        let router = router.namespace();
        let device = router.within(open)?;
        let mut delay = Self { router: router.clone(), stop: Arc::new(AtomicBool::new(false)), thread: None };
        router.run("ip", &["link", "set", DEVICE, "up"])?;
        let (mark, table) = (MARK.to_string(), (MARK + 100).to_string());
        for option in ["-4", "-6"] {
            router.run("ip", &[option, "rule", "add", "fwmark", &mark, "lookup", &table])?;
            router.run("ip", &[option, "route", "add", "default", "dev", DEVICE, "table", &table])?;
        }
        let rules = format!(
            "table inet {DEVICE} {{\n chain prerouting {{\n  \
             type filter hook prerouting priority mangle; policy accept;\n  \
             iifname != \"{DEVICE}\" udp dport {port} meta mark set {MARK}\n  \
             iifname != \"{DEVICE}\" udp sport {port} meta mark set {MARK}\n }}\n}}\n"
        );
        router.run_with_input("nft", &["-f", "-"], &rules)?;
        let stopped = Arc::clone(&delay.stop);
        // Ends when the device does, at the latest.
        delay.thread = Some(std::thread::spawn(move || hold(device, by, &stopped)));
        Ok(delay)
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        // First nothing new, then what is held: a delay loses nothing. In a lab that is gone nothing is left.
        let _ = self.router.run("nft", &["delete", "table", "inet", DEVICE]);
        for option in ["-4", "-6"] {
            let _ = self.router.run("ip", &[option, "rule", "delete", "fwmark", &MARK.to_string()]);
        }
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // With the device goes its route.
            let _ = thread.join();
        }
    }
}

/// Makes the device in this thread's network namespace.
fn open() -> Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun").context("open /dev/net/tun")?;
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).context("make the device's flags")?;
    // SAFETY: the request is alive and as TUNSETIFF wants it.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw const request) };
    ensure!(status == 0, "make the TUN device: {}", std::io::Error::last_os_error());
    // SAFETY: fcntl takes an open descriptor.
    let status = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    ensure!(status == 0, "make the TUN device not block: {}", std::io::Error::last_os_error());
    Ok(file)
}

fn hold(mut device: File, by: Duration, stop: &AtomicBool) {
    let mut held: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut buffer = vec![0; 65_535];
    while !stop.load(Ordering::Relaxed) || !held.is_empty() {
        let timeout =
            held.front().map_or(Duration::from_millis(20), |(due, _)| due.saturating_duration_since(Instant::now()));
        wait(&device, timeout);
        loop {
            match device.read(&mut buffer) {
                Ok(length) if held.len() < HELD => {
                    held.push_back((Instant::now() + by, buffer.iter().copied().take(length).collect()));
                }
                Ok(_) => (),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        let now = Instant::now();
        let due = held.iter().take_while(|(due, _)| *due <= now).count();
        for (_, packet) in held.drain(..due) {
            // What the kernel does not take is lost, as on a real link.
            let _ = device.write(&packet);
        }
    }
}

/// Until the device has a packet, or `timeout` is over.
fn wait(device: &File, timeout: Duration) {
    let mut poll = libc::pollfd { fd: device.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let millis = timeout.as_micros().div_ceil(1000).min(20);
    // SAFETY: one pollfd, alive.
    unsafe { libc::poll(&raw mut poll, 1, libc::c_int::try_from(millis).unwrap_or(1)) };
}
