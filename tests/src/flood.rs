//! A flood: replies of transactions that nobody knows, as fast as asked for, from one thread.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use forwarder_common::hash;

use crate::lab::{Family, Host, Lab};
use crate::traffic::{Sip, vip};

/// Messages handed to the kernel in one call.
const BATCH: usize = 64;
/// Where a Call-ID's number stands in the message that all of them are made of.
const NUMBER: &str = "0000000000000000";

/// A running flood; dropping it ends it.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    begun: Instant,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Sends `180 Ringing` with ever new Call-IDs from a port of the carrier to the shared address, `rate` a second.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(lab: &Lab, family: Family, port: u16, rate: u32) -> Result<Self> {
        let from = SocketAddr::new(Host::Carrier.address(family), port);
        let socket = lab.host(Host::Carrier).within(|| {
            let socket = UdpSocket::bind(from).context("bind")?;
            socket.connect(vip(family)).context("connect")?;
            Ok(socket)
        })?;
        let call_id = format!("{NUMBER}@flood");
        let call = Sip { call_id: &call_id, cseq: 1, method: "INVITE", branch: "z9hG4bKflood", via: vip(family) };
        let message = call.response("180 Ringing");
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || send(&socket, &message, rate, &stopped, &count));
        Ok(Self { stop, sent, begun: Instant::now(), thread: Some(thread) })
    }

    /// Ends it and says how many messages were sent, and in which time.
    #[must_use]
    pub fn stop(mut self) -> (u64, Duration) {
        self.end();
        (self.sent.load(Ordering::Relaxed), self.begun.elapsed())
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.end();
    }
}

fn send(socket: &UdpSocket, message: &[u8], rate: u32, stop: &AtomicBool, count: &AtomicU64) {
    let at = message.windows(NUMBER.len()).position(|part| part == NUMBER.as_bytes()).unwrap_or(0);
    let mut messages = vec![message.to_vec(); BATCH];
    let (begun, mut sent) = (Instant::now(), 0_u64);
    while !stop.load(Ordering::Relaxed) {
        let due = begun.elapsed().as_micros() * u128::from(rate) / 1_000_000;
        if u128::from(sent) >= due {
            std::thread::park_timeout(Duration::from_micros(500));
            continue;
        }
        for message in &mut messages {
            // Odd factor, so that no two numbers are the same and neighbours have nothing in common.
            let number = format!("{:016x}", sent.wrapping_mul(hash::GOLDEN));
            message.splice(at..at + NUMBER.len(), number.bytes());
            sent += 1;
        }
        let taken = send_batch(socket, &mut messages);
        count.fetch_add(taken, Ordering::Relaxed);
    }
}

/// Hands a batch to the kernel; how many it took.
fn send_batch(socket: &UdpSocket, messages: &mut [Vec<u8>]) -> u64 {
    let mut parts: Vec<libc::iovec> = messages
        .iter_mut()
        .map(|message| libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: an all-zero header is valid: no address, no control data.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header
        })
        .collect();
    let length = libc::c_uint::try_from(headers.len()).unwrap_or(0);
    // SAFETY: headers, parts and messages are alive, and as many as said.
    let taken = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), length, 0) };
    u64::try_from(taken).unwrap_or(0)
}
