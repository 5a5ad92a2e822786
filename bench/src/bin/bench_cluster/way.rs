//! A way between two hosts that takes its time, as between continents, or stalls, as a peer does that is stopped.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// The two ends: what arrives there is on its way, and is not lost once more.
pub(crate) const ENDS: [u16; 2] = [7471, 7472];
/// How often the way looks for packets; the delay is longer by half of it.
const LOOK: Duration = Duration::from_micros(200);
/// How often it stalls, if it does.
const STOP_EVERY: Duration = Duration::from_secs(3);

/// Keeps each packet for a while, and then passes it on.
pub(crate) struct Way {
    /// Where one calls to reach the other.
    pub(crate) address: SocketAddr,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Way {
    /// A way to `server` that takes `delay` there, and as long back, and takes and gives nothing for the last `stop` of
    /// every three seconds.
    pub(crate) fn open(server: SocketAddr, delay: Duration, stop: Duration) -> Result<Self> {
        let bind = |port: u16| -> Result<UdpSocket> {
            let socket = UdpSocket::bind(("127.0.0.1", port)).with_context(|| format!("bind port {port}"))?;
            socket.set_nonblocking(true)?;
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 16 << 20)?;
            Ok(socket)
        };
        let (front, back) = (bind(ENDS[0])?, bind(ENDS[1])?);
        let (address, end) = (front.local_addr()?, Arc::new(AtomicBool::new(false)));
        let over = Arc::clone(&end);
        let thread = thread::spawn(move || {
            let (mut there, mut here) = (VecDeque::new(), VecDeque::new());
            let (mut client, start) = (None, Instant::now());
            while !over.load(Ordering::Acquire) {
                let in_turn = start.elapsed().as_nanos() % STOP_EVERY.as_nanos();
                if in_turn + stop.as_nanos() <= STOP_EVERY.as_nanos() {
                    client = take(&front, &mut there).or(client);
                    take(&back, &mut here);
                    give(&back, &mut there, Some(server), delay);
                    give(&front, &mut here, client, delay);
                }
                thread::sleep(LOOK);
            }
        });
        Ok(Self { address, end, thread: Some(thread) })
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Packets = VecDeque<(Instant, Vec<u8>)>;

/// Takes all packets that have come; whom the last one is from.
fn take(socket: &UdpSocket, packets: &mut Packets) -> Option<SocketAddr> {
    let (mut buffer, mut last) = ([0; 2048], None);
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                packets.push_back((Instant::now(), buffer[..length].to_vec()));
                last = Some(from);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return last,
            // The other end is not there yet, or not any more.
            Err(_) => {}
        }
    }
}

fn give(socket: &UdpSocket, packets: &mut Packets, to: Option<SocketAddr>, delay: Duration) {
    while packets.front().is_some_and(|(at, _)| at.elapsed() >= delay) {
        if let (Some((_, packet)), Some(to)) = (packets.pop_front(), to) {
            let _ = socket.send_to(&packet, to);
        }
    }
}
