//! The callees of a soak: every kind's, from one thread in the carrier's namespace.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::message::Message;
use super::retransmission::Retransmission;
use crate::clock::now_us;
use crate::lab::{Family, Lab};
use crate::sipp::Kind;

/// The kinds that are answered.
const KINDS: [Kind; 5] = [Kind::Call, Kind::Cancel, Kind::Busy, Kind::Late, Kind::Silent];
/// How often a callee looks at what is due.
const STEP: Duration = Duration::from_millis(2);
/// How long a transaction is remembered, in microseconds.
const MEMORY_US: u64 = 40_000_000;
/// Bytes of a socket's buffer.
const BUFFER: usize = 4 << 20;

/// Callees that answer, until dropped.
#[derive(Debug)]
pub struct Callees {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Callees {
    /// Starts them where the edges' proxies look for them.
    ///
    /// # Errors
    /// A port is taken.
    pub fn start(lab: &Lab) -> Result<Self> {
        let mut lines = Vec::new();
        for (kind, family) in KINDS.iter().flat_map(|kind| Family::BOTH.map(|family| (*kind, family))) {
            let (host, port) = kind.callee();
            let at = SocketAddr::new(host.address(family), port);
            let socket = lab.host(host).within(|| UdpSocket::bind(at).context("bind a callee's port"))?;
            socket.set_nonblocking(true).context("look without waiting")?;
            socket2::SockRef::from(&socket).set_recv_buffer_size(BUFFER).context("set a callee's buffer")?;
            lines.push(Line { kind, at, socket, transactions: HashMap::new() });
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok(now) = now_us() else { return };
                lines.iter_mut().for_each(|line| line.turn(now));
                std::thread::park_timeout(STEP);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Callees {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The callee of one kind at one address.
#[derive(Debug)]
struct Line {
    kind: Kind,
    at: SocketAddr,
    socket: UdpSocket,
    /// By branch and method; CANCEL has those of its INVITE, ACK of a 200 a branch of its own.
    transactions: HashMap<(String, String), Transaction>,
}

/// A request and its answers.
#[derive(Debug)]
struct Transaction {
    request: Message,
    from: SocketAddr,
    begun_us: u64,
    /// What the request is answered by when it comes again.
    last: Vec<u8>,
    /// When the final answer is due.
    answer_us: Option<u64>,
    /// A final answer to an INVITE, until its ACK.
    sending: Option<Retransmission>,
}

impl Line {
    fn turn(&mut self, now: u64) {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            if let Some(request) = buffer.get(..length).and_then(Message::read) {
                self.take(request, from, now);
            }
        }
        for transaction in self.transactions.values_mut() {
            if transaction.answer_us.is_some_and(|at| now >= at) {
                transaction.answer_us = None;
                transaction.answer("200 OK", self.at, now);
                let _ = self.socket.send_to(&transaction.last, transaction.from);
            }
            if let Some(message) = &mut transaction.sending
                && message.is_due(now)
            {
                let _ = self.socket.send_to(&message.bytes, transaction.from);
            }
        }
        self.transactions.retain(|_, transaction| now < transaction.begun_us + MEMORY_US);
    }

    fn take(&mut self, request: Message, from: SocketAddr, now: u64) {
        let Some(method) = request.method().map(str::to_owned) else { return };
        let key = (request.branch().to_owned(), method.clone());
        match method.as_str() {
            "ACK" => return self.acknowledged(&request),
            "CANCEL" => self.cancelled(&request, now),
            _ => {}
        }
        if let Some(known) = self.transactions.get(&key) {
            if !known.last.is_empty() {
                let _ = self.socket.send_to(&known.last, from);
            }
            return;
        }
        let is_merged = self.is_merged(&request, &method);
        let mut transaction =
            Transaction { request, from, begun_us: now, last: Vec::new(), answer_us: None, sending: None };
        match (self.kind, method.as_str()) {
            _ if is_merged => transaction.answer("482 Loop Detected", self.at, now),
            (Kind::Busy, "INVITE") => transaction.answer("486 Busy Here", self.at, now),
            (Kind::Silent, "INVITE") => transaction.answer_us = Some(now + 1_500_000),
            (Kind::Cancel, "INVITE") => transaction.answer("180 Ringing", self.at, now),
            (_, "INVITE") => {
                transaction.answer("180 Ringing", self.at, now);
                transaction.answer_us = Some(now + 100_000);
            }
            (_, "MESSAGE") => transaction.answer_us = Some(now + 1_200_000),
            _ => transaction.answer("200 OK", self.at, now),
        }
        if !transaction.last.is_empty() {
            let _ = self.socket.send_to(&transaction.last, from);
        }
        self.transactions.insert(key, transaction);
    }

    /// RFC 3261 §8.2.2.2: the same request on another way.
    fn is_merged(&self, request: &Message, method: &str) -> bool {
        let is_first = !request.header("To").contains(";tag=");
        is_first
            && self.transactions.iter().any(|((_, known), transaction)| {
                known == method && transaction.request.header("Call-ID") == request.header("Call-ID")
            })
    }

    fn acknowledged(&mut self, ack: &Message) {
        let of_call = |request: &Message| request.header("Call-ID") == ack.header("Call-ID");
        for ((branch, method), transaction) in &mut self.transactions {
            // A refusal's ACK has its branch; that of a 200 is the call's.
            let is_of = branch == ack.branch() || transaction.last.starts_with(b"SIP/2.0 200");
            if method == "INVITE" && of_call(&transaction.request) && is_of {
                transaction.sending = None;
            }
        }
    }

    fn cancelled(&mut self, cancel: &Message, now: u64) {
        let key = (cancel.branch().to_owned(), "INVITE".to_owned());
        let Some(transaction) = self.transactions.get_mut(&key) else { return };
        if transaction.last.starts_with(b"SIP/2.0 180") {
            transaction.answer_us = None;
            transaction.answer("487 Request Terminated", self.at, now);
            let _ = self.socket.send_to(&transaction.last, transaction.from);
        }
    }
}

impl Transaction {
    /// Makes the answer the last one; a final one to an INVITE is sent until its ACK.
    fn answer(&mut self, status: &str, at: SocketAddr, now: u64) {
        let request = &self.request;
        let to = request.header("To");
        let tag = if to.contains(";tag=") { String::new() } else { format!(";tag={}", request.branch()) };
        let mut answer = Message::new(format!("SIP/2.0 {status}"));
        for name in ["Via", "Record-Route", "From"] {
            answer = answer.with_all(name, request);
        }
        let answer = answer.with("To", format!("{to}{tag}")).with_all("Call-ID", request).with_all("CSeq", request);
        self.last = answer.with("Server", "carrier").with("Contact", format!("<sip:{at}>")).bytes();
        if request.method() == Some("INVITE") && !status.starts_with('1') {
            self.sending = Some(Retransmission::new(self.last.clone(), true, now));
        }
    }
}
