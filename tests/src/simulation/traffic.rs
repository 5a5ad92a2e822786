//! SIP transactions as the hosts see them: what comes in which order, what each message is, and how it looks on the
//! wire.

use std::fmt::Write as _;

use fastrand::Rng;
use forwarder_common::{
    hash,
    sip::{Kind, Method},
};

/// The shared address and port that all packets are sent to.
pub(super) const VIP: [u8; 4] = [192, 0, 2, 10];
/// The port of the service.
pub(super) const PORT: u16 = 5060;
/// The cluster's key of the claim hash.
pub(super) const HASH_KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
/// Chance that a client sends its request a second time after T1, because the answer took too long.
const AGAIN: f64 = 0.03;
/// Chance that the callee answers at once, without anything before it: a few milliseconds after the request.
const AT_ONCE: f64 = 0.05;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// A call that is answered.
    Answered,
    /// A call that its caller gives up.
    Cancelled,
    /// A call that is refused.
    Rejected,
    /// A transaction that is no INVITE.
    Other,
}

/// A message that arrives at the shared address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Invite,
    InviteAgain,
    Trying,
    Ringing,
    Answer,
    Busy,
    Cancel,
    CancelDone,
    Terminated,
    AnswerAck,
    RefusalAck,
    Request,
    RequestAgain,
    Reply,
}

/// Kinds of messages, as the report counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Begins a transaction.
    First,
    /// The same request again.
    Again,
    /// Any response.
    Reply,
    /// A CANCEL.
    Cancel,
    /// An ACK.
    Ack,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::First, Self::Again, Self::Reply, Self::Cancel, Self::Ack];

    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first requests",
            Self::Again => "requests again",
            Self::Reply => "replies",
            Self::Cancel => "CANCEL",
            Self::Ack => "ACK",
        }
    }
}

impl Step {
    const ALL: [Self; 14] = [
        Self::Invite,
        Self::InviteAgain,
        Self::Trying,
        Self::Ringing,
        Self::Answer,
        Self::Busy,
        Self::Cancel,
        Self::CancelDone,
        Self::Terminated,
        Self::AnswerAck,
        Self::RefusalAck,
        Self::Request,
        Self::RequestAgain,
        Self::Reply,
    ];

    pub(super) const fn class(self) -> Class {
        match self {
            Self::Invite | Self::Request => Class::First,
            Self::InviteAgain | Self::RequestAgain => Class::Again,
            Self::Cancel => Class::Cancel,
            Self::AnswerAck | Self::RefusalAck => Class::Ack,
            Self::Trying
            | Self::Ringing
            | Self::Answer
            | Self::Busy
            | Self::CancelDone
            | Self::Terminated
            | Self::Reply => Class::Reply,
        }
    }

    pub(super) const fn kind(self) -> Kind {
        match self.class() {
            Class::First | Class::Again => Kind::Request,
            Class::Reply => Kind::Response,
            Class::Cancel => Kind::Cancel,
            Class::Ack => Kind::Ack,
        }
    }

    /// Its sender sends it again if nothing comes of it.
    pub(super) const fn is_repeated(self) -> bool {
        !matches!(self, Self::Trying | Self::Ringing | Self::AnswerAck | Self::RefusalAck)
    }

    /// Start line and method of the CSeq.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Invite | Self::InviteAgain => ("INVITE sip:b@example.net SIP/2.0", "INVITE"),
            Self::Trying => ("SIP/2.0 100 Trying", "INVITE"),
            Self::Ringing => ("SIP/2.0 180 Ringing", "INVITE"),
            Self::Answer => ("SIP/2.0 200 OK", "INVITE"),
            Self::Busy => ("SIP/2.0 486 Busy Here", "INVITE"),
            Self::Cancel => ("CANCEL sip:b@example.net SIP/2.0", "CANCEL"),
            Self::CancelDone => ("SIP/2.0 200 OK", "CANCEL"),
            Self::Terminated => ("SIP/2.0 487 Request Terminated", "INVITE"),
            Self::AnswerAck | Self::RefusalAck => ("ACK sip:b@example.net SIP/2.0", "ACK"),
            Self::Request | Self::RequestAgain => ("OPTIONS sip:b@example.net SIP/2.0", "OPTIONS"),
            Self::Reply => ("SIP/2.0 200 OK", "OPTIONS"),
        }
    }

    /// What a proxy that takes the message sends: kind, whether the method is INVITE, status.
    pub(super) const fn emits(self) -> &'static [(Kind, Method, u16)] {
        match self {
            Self::Invite | Self::InviteAgain => {
                &[(Kind::Response, Method::Invite, 100), (Kind::Request, Method::Invite, 0)]
            }
            Self::Ringing => &[(Kind::Response, Method::Invite, 180)],
            Self::Answer => &[(Kind::Response, Method::Invite, 200)],
            Self::Busy => &[(Kind::Ack, Method::Invite, 0), (Kind::Response, Method::Invite, 486)],
            Self::Terminated => &[(Kind::Ack, Method::Invite, 0), (Kind::Response, Method::Invite, 487)],
            Self::Cancel => &[(Kind::Response, Method::Other, 200), (Kind::Cancel, Method::Invite, 0)],
            Self::Request | Self::RequestAgain => &[(Kind::Request, Method::Other, 0)],
            Self::Reply => &[(Kind::Response, Method::Other, 200)],
            Self::AnswerAck => &[(Kind::Ack, Method::Invite, 0)],
            Self::Trying | Self::CancelDone | Self::RefusalAck => &[],
        }
    }
}

/// What follows when a proxy has taken a step: the steps of the others, and after how many microseconds.
pub(super) fn follow_up(flow: Flow, step: Step, rng: &mut Rng) -> Vec<(u64, Step)> {
    let mut within = |from_ms: u64, to_ms: u64| rng.u64(from_ms * 1000..to_ms * 1000);
    match (flow, step) {
        (Flow::Answered, Step::Invite) => {
            let (answers, rings) = (within(1_000, 12_000), within(100, 1000));
            let (trying, at_once) = (within(5, 40), within(2, 8));
            if rng.f64() < AT_ONCE {
                return vec![(at_once, Step::Answer)];
            }
            vec![(trying, Step::Trying), (rings, Step::Ringing), (answers, Step::Answer)]
        }
        (Flow::Cancelled, Step::Invite) => {
            vec![(within(5, 40), Step::Trying), (within(100, 900), Step::Ringing), (within(300, 5000), Step::Cancel)]
        }
        (Flow::Rejected, Step::Invite) => {
            let (trying, busy) = (within(5, 40), within(40, 500));
            vec![(trying, Step::Trying), (busy, Step::Busy)]
        }
        (_, Step::Answer) => vec![(within(20, 80), Step::AnswerAck)],
        (_, Step::Busy | Step::Terminated) => vec![(within(20, 80), Step::RefusalAck)],
        (_, Step::Cancel) => {
            let done = within(5, 40);
            vec![(done, Step::CancelDone), (done + within(1, 5), Step::Terminated)]
        }
        (Flow::Other, Step::Request) => vec![(within(5, 200), Step::Reply)],
        _ => Vec::new(),
    }
}

/// What a new client wants: four of five are calls.
pub(super) fn flow(rng: &mut Rng) -> Flow {
    match rng.u32(0..100) {
        0..55 => Flow::Answered,
        55..70 => Flow::Cancelled,
        70..80 => Flow::Rejected,
        _ => Flow::Other,
    }
}

/// The client's own steps: its request, and perhaps the same again.
pub(super) fn opening(flow: Flow, t1_us: u64, rng: &mut Rng) -> Vec<(u64, Step)> {
    let (first, again) = match flow {
        Flow::Other => (Step::Request, Step::RequestAgain),
        Flow::Answered | Flow::Cancelled | Flow::Rejected => (Step::Invite, Step::InviteAgain),
    };
    let mut steps = vec![(0, first)];
    if rng.f64() < AGAIN {
        steps.push((t1_us, again));
    }
    steps
}

/// A proxy that took a transaction's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leg {
    pub(super) host: usize,
    /// Of that host's proxy.
    pub(super) incarnation: u32,
    pub(super) reply_key: u64,
}

/// A transaction.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    pub(super) flow: Flow,
    /// Where its packets land, but for those that land elsewhere.
    pub(super) home: usize,
    pub(super) request_key: u64,
    /// The proxies that took it; the callee answers the first.
    pub(super) legs: Vec<Leg>,
    /// One of its messages was lost, or met a node that could do nothing with it.
    pub(super) is_harmed: bool,
}

fn call_id(transaction: usize) -> String {
    format!("{transaction:08x}-simulated@client.example")
}

fn branch(transaction: usize, host: usize) -> String {
    format!("z9hG4bK{transaction:08x}.{host}")
}

/// The keys `(L, X)` of a transaction that a host has sent on.
pub(super) fn keys(transaction: usize, host: usize) -> (u64, u64) {
    hash::keys(HASH_KEY, call_id(transaction).as_bytes(), 1, branch(transaction, host).as_bytes())
}

/// A message under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) transaction: usize,
    pub(super) step: Step,
    /// When it landed, in virtual microseconds.
    pub(super) landed_us: u64,
}

impl Message {
    /// The frame, with the branch that `host` has put on top.
    pub(super) fn frame(&self, host: usize) -> Vec<u8> {
        let (line, method) = self.step.words();
        let (branch, call_id) = (branch(self.transaction, host), call_id(self.transaction));
        let mut text = format!("{line}\r\nVia: SIP/2.0/UDP 192.0.2.10;branch={branch}\r\n");
        let _ = write!(text, "Call-ID: {call_id}\r\nCSeq: 1 {method}\r\nContent-Length: 24\r\n\r\n");
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        let (udp, marks) = (8 + text.len() + MARKS, [self.transaction as u64, self.step as u64, self.landed_us]);
        frame.extend([0x45, 0]);
        frame.extend((20 + udp as u16).to_be_bytes());
        let [.., high, low] = self.transaction.to_be_bytes();
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 198, 18, high, low]);
        frame.extend(VIP);
        frame.extend([PORT.to_be_bytes(), PORT.to_be_bytes(), (udp as u16).to_be_bytes(), [0, 0]].concat());
        frame.extend(text.into_bytes());
        marks.iter().for_each(|mark| frame.extend(mark.to_be_bytes()));
        frame
    }

    /// The message whose packet this is.
    pub(super) fn of_packet(packet: &[u8]) -> Option<Self> {
        let marks = packet.get(packet.len().checked_sub(MARKS)?..)?;
        let number = |at: usize| Some(u64::from_be_bytes(marks.get(at..at + 8)?.try_into().ok()?));
        let step = *Step::ALL.get(number(8)? as usize)?;
        Some(Self { transaction: number(0)? as usize, step, landed_us: number(16)? })
    }
}

/// Bytes of a message's body, by which the simulation knows it again.
const MARKS: usize = 24;

#[cfg(test)]
mod tests {
    use forwarder_common::sip::full;

    use super::*;

    #[test]
    fn a_message_is_read_as_what_it_is_and_known_again() {
        for step in Step::ALL {
            let message = Message { transaction: 0x1234, step, landed_us: 77 };
            let frame = message.frame(5);
            let read = full::read(&frame[42..]).unwrap();
            assert_eq!(read.kind, step.kind());
            let (l, x) = hash::keys(HASH_KEY, read.call_id, read.cseq, read.branch.unwrap());
            assert_eq!((l, x), keys(0x1234, 5), "{step:?}");
            assert_eq!(Message::of_packet(&frame[14..]), Some(message));
        }
    }
}
