//! The callers of a soak: all calls of a seed, from one thread in the client's namespace.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use fastrand::Rng;

use super::call::{Call, Dossier, Plan};
use super::message::Message;
use crate::clock::now_us;
use crate::lab::{Family, Host, Lab};
use crate::sipp::Kind;
use crate::traffic::vip;

/// The callers' port.
const PORT: u16 = 7060;
/// How often a caller looks at what is due, in time.
const STEP: Duration = Duration::from_millis(2);
/// Bytes by which a large request is larger: two fragments.
const PADDING: usize = 1600;
/// The longest that two talk, in microseconds.
const TALK_US: u64 = 3_000_000;
/// Bytes of a socket's buffer.
const BUFFER: usize = 4 << 20;

/// Callers at work, until they are told to begin no more calls.
#[derive(Debug)]
pub struct Callers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Dossier>>>,
}

impl Callers {
    /// Starts them, with so many calls a second.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(lab: &Lab, seed: u64, rate: u32) -> Result<Self> {
        let sockets = Family::BOTH.map(|family| -> Result<(Family, UdpSocket)> {
            let at = SocketAddr::new(Host::Client.address(family), PORT);
            let socket = lab.host(Host::Client).within(|| UdpSocket::bind(at).context("bind a caller's port"))?;
            socket.set_nonblocking(true).context("look without waiting")?;
            socket2::SockRef::from(&socket).set_recv_buffer_size(BUFFER).context("set a caller's buffer")?;
            Ok((family, socket))
        });
        let sockets: Vec<(Family, UdpSocket)> = sockets.into_iter().collect::<Result<_>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || call(&sockets, seed, rate, &stopped));
        Ok(Self { stop, thread })
    }

    /// Lets them begin no more calls, and waits until the last has ended.
    ///
    /// # Errors
    /// A socket broke.
    pub fn finish(self) -> Result<Vec<Dossier>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the callers panicked"))?
    }
}

/// Makes calls until told to stop, and then ends them.
fn call(sockets: &[(Family, UdpSocket)], seed: u64, rate: u32, stop: &AtomicBool) -> Result<Vec<Dossier>> {
    // Another sequence than that of the schedule.
    let mut rng = Rng::with_seed(seed ^ 0x5bd1_e995);
    let mut calls: HashMap<String, (usize, Call)> = HashMap::new();
    let (mut ended, mut number) = (Vec::new(), 0_u64);
    let mut next_us = now_us()?;
    loop {
        let now = now_us()?;
        let is_stopped = stop.load(Ordering::Relaxed);
        while !is_stopped && now >= next_us {
            number += 1;
            let place = rng.usize(0..sockets.len());
            let (family, socket) = sockets.get(place).context("find a caller's socket")?;
            let ends = (socket.local_addr().context("find a caller's address")?, vip(*family));
            let (call, bytes) = Call::begin(format!("chaos{number}-{seed}@lab"), plan(&mut rng), ends, now);
            send(socket, &bytes, *family);
            calls.insert(call.dossier.id.clone(), (place, call));
            next_us += (-1e6 / f64::from(rate) * (1.0 - rng.f64()).ln()) as u64;
        }
        for (family, socket) in sockets {
            take(socket, *family, &mut calls)?;
        }
        for (place, call) in calls.values_mut() {
            let (family, socket) = sockets.get(*place).context("find a caller's socket")?;
            call.due(now).iter().for_each(|bytes| send(socket, bytes, *family));
        }
        // A refusal may come again for a while, and wants its ACK.
        let is_old = |call: &Call| call.is_over() && now > call.dossier.ended_us + 2 * TALK_US;
        ended.extend(calls.extract_if(|_, (_, call)| is_old(call)).map(|(_, (_, call))| call.dossier));
        if is_stopped && calls.is_empty() {
            return Ok(ended);
        }
        std::thread::park_timeout(STEP);
    }
}

/// What a call is to be: of six kinds, one a large request.
fn plan(rng: &mut Rng) -> Plan {
    let (kind, padding) = match rng.u32(0..20) {
        0..6 => (Kind::Call, 0),
        6..9 => (Kind::Call, PADDING),
        9..13 => (Kind::Cancel, 0),
        13..16 => (Kind::Busy, 0),
        16..18 => (Kind::Silent, 0),
        _ => (Kind::Late, 0),
    };
    Plan { kind, talk_us: rng.u64(100_000..TALK_US), padding }
}

fn send(socket: &UdpSocket, bytes: &[u8], family: Family) {
    // What the network refuses is lost, and sent again.
    let _ = socket.send_to(bytes, vip(family));
}

/// Takes everything that waits in a socket.
fn take(socket: &UdpSocket, family: Family, calls: &mut HashMap<String, (usize, Call)>) -> Result<()> {
    let mut buffer = vec![0; 65_535];
    // An error is that nothing waits, or what ICMP says of an earlier packet.
    while let Ok((length, _)) = socket.recv_from(&mut buffer) {
        let Some(message) = buffer.get(..length).and_then(Message::read) else { continue };
        if let Some((_, call)) = calls.get_mut(message.header("Call-ID"))
            && let Some(bytes) = call.answered(&message, now_us()?)
        {
            send(socket, &bytes, family);
        }
    }
    Ok(())
}
