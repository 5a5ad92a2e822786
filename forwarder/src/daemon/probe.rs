//! Looks after the local proxy of each service that is to be probed, and says what it sees; it concludes nothing.
//!
//! A probe is an OPTIONS from the VIP to the VIP: such a packet never leaves the host, meets no program on its way, and
//! is answered from the address that it was sent to, however the proxy's socket is bound. Max-Forwards is 0, so that
//! nobody passes it on. Beside that the sockets bound to each service are looked at.
//!
//! An error of the network is no evidence: anybody can forge an ICMP message. The probe's socket is not connected, and
//! such a socket is told of none.

mod list;
mod message;
mod watch;

use std::{
    io,
    net::{SocketAddr, UdpSocket as StdSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    net::UdpSocket,
    sync::{Notify, mpsc},
    time::{Interval, MissedTickBehavior, interval},
};

use self::message::Probe;
pub use self::watch::LOOK_PAUSE;
pub(super) use self::watch::Seen;
use crate::{config::Service, dataplane, tunnel::ignore_path_mtu};
use forwarder_core::failover::Evidence;

/// Longest answer that is read in bytes; of a longer one the beginning is enough.
const ANSWER: usize = 4096;

/// Starts to look after the services that ask for it, until `seen` is closed. Call within a tokio runtime.
///
/// # Errors
/// The kernel gives no randomness or no thread.
pub(super) fn spawn(services: &[Service], seen: &mpsc::Sender<Seen>) -> Result<()> {
    let mut watched = Vec::new();
    for (index, service) in services.iter().enumerate() {
        let Some(probe) = &service.probe else { continue };
        let address = SocketAddr::new(service.vip, service.port);
        let changed = Arc::new(Notify::new());
        watched.push(watch::Watched { index, address, changed: Arc::clone(&changed) });
        let prober = Prober { index, address, probe: Probe::new(address)?, seen: seen.clone(), changed };
        tokio::spawn(prober.run(Duration::from_millis(probe.interval_ms)));
    }
    if watched.is_empty() { Ok(()) } else { watch::spawn(watched, seen.clone()) }
}

/// One service's probes.
struct Prober {
    index: usize,
    address: SocketAddr,
    probe: Probe,
    seen: mpsc::Sender<Seen>,
    changed: Arc<Notify>,
}

impl Prober {
    async fn run(mut self, pause: Duration) {
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.seen.is_closed() {
            ticks.tick().await;
            let evidence = match open(self.address) {
                Ok(socket) => match self.with(&socket, &mut ticks).await {
                    Some(error) => Evidence::Failed(format!("{error:#}")),
                    None => return,
                },
                Err(error) => Evidence::Failed(format!("{error:#}")),
            };
            self.tell(evidence).await;
        }
    }

    /// Probes over `socket` until that fails, or until nobody listens any more.
    async fn with(&mut self, socket: &UdpSocket, ticks: &mut Interval) -> Option<anyhow::Error> {
        let mut buffer = vec![0; ANSWER];
        let mut is_open = false;
        ticks.reset_immediately();
        loop {
            let answered = tokio::select! {
                _ = ticks.tick() => {
                    if std::mem::replace(&mut is_open, true) && !self.tell(Evidence::Silent).await {
                        return None;
                    }
                    self.send(socket).await.map(|()| None)
                }
                () = self.changed.notified() => {
                    // A new proxy need not wait for the next turn, and owes nothing for the old one's silence.
                    is_open = false;
                    ticks.reset_immediately();
                    continue;
                }
                received = socket.recv_from(&mut buffer) => received.context("receive the answer to a probe").map(
                    |(length, from)| {
                        let answer = buffer.get(..length).filter(|_| from == self.address);
                        answer.and_then(|answer| self.probe.answered(answer))
                    },
                ),
            };
            match answered {
                Ok(None) => {}
                Ok(Some(sent_us)) => {
                    is_open = false;
                    if !self.tell(Evidence::Answered { sent_us }).await {
                        return None;
                    }
                }
                Err(error) => return Some(error),
            }
        }
    }

    async fn send(&mut self, socket: &UdpSocket) -> Result<()> {
        let from = socket.local_addr().context("ask the probe's socket for its address")?;
        let text = self.probe.next(from, dataplane::monotonic_ns() / 1000);
        socket.send_to(text.as_bytes(), self.address).await.context("probe it").map(drop)
    }

    /// False if nobody listens any more.
    async fn tell(&self, evidence: Evidence) -> bool {
        self.seen.send((self.index, evidence)).await.is_ok()
    }
}

/// A socket at the VIP. It is not connected: of a connected one the kernel would believe an ICMP error from anybody.
fn open(service: SocketAddr) -> Result<UdpSocket> {
    let vip = service.ip();
    let socket = StdSocket::bind((vip, 0)).map_err(|error| {
        if error.kind() == io::ErrorKind::AddrNotAvailable {
            return anyhow!("{vip} is no address of this host");
        }
        anyhow!("open a socket at {vip}: {error}")
    })?;
    socket.set_nonblocking(true).and_then(|()| ignore_path_mtu(&socket, vip)).context("prepare the probe's socket")?;
    UdpSocket::from_std(socket).context("wait for answers to probes")
}

#[cfg(test)]
mod tests;
