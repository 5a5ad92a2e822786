//! One call as its caller sees it, and what is known of it afterwards.

use std::net::SocketAddr;

use super::message::{Message, parameter, uri};
use super::retransmission::Retransmission;
use crate::sipp::Kind;

/// How long the caller waits after the first provisional answer before it gives up, in microseconds.
const PATIENCE_US: u64 = 200_000;
/// How long an INVITE may go without a final answer once there was a provisional one, in microseconds.
const RINGING_US: u64 = 40_000_000;

/// The time, in microseconds since 1970, the edge, and the CSeq's number.
pub type Seen = (u64, u8, u32);

/// What a caller is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What kind of call.
    pub kind: Kind,
    /// How long the two talk, in microseconds.
    pub talk_us: u64,
    /// Bytes that its first request is larger: then it leaves in fragments, each of which lands elsewhere.
    pub padding: usize,
}

/// What is known of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dossier {
    /// Its Call-ID.
    pub id: String,
    /// What its caller did.
    pub plan: Plan,
    /// When its caller sent the first request, in microseconds since 1970.
    pub begun_us: u64,
    /// When its caller sent or got something last.
    pub ended_us: u64,
    /// Whether its caller got what ends a call of its kind well, and no other final answer before.
    pub completed: bool,
    /// What its caller got: when, status and CSeq.
    pub answers: Vec<(u64, u16, String)>,
    /// Where the router sent its packets, in their order; fragments are not in it.
    pub landed: Vec<Seen>,
    /// Whose proxies had a message of it, in their order.
    pub had: Vec<Seen>,
}

impl Dossier {
    /// Whether two proxies had messages of one of its transactions: one of them was a wrong one.
    #[must_use]
    pub fn went_astray(&self) -> bool {
        let is_elsewhere = |(_, edge, number): &Seen| {
            self.had.iter().any(|(_, other_edge, other)| other == number && other_edge != edge)
        };
        self.had.iter().any(is_elsewhere)
    }
}

/// How far a call is.
#[derive(Clone, Debug)]
enum Step {
    /// The first request has no final answer yet. For an INVITE, when the CANCEL is due.
    Asking { cancel_us: Option<u64> },
    /// The callee has answered, and the BYE is due then.
    Talking { bye_us: u64, answer: Box<Message> },
    /// The BYE has no answer yet.
    Ending,
    /// Nothing more is to come.
    Over,
}

/// A call on its way.
#[derive(Debug)]
pub struct Call {
    /// What is known of it.
    pub dossier: Dossier,
    local: SocketAddr,
    first: Message,
    step: Step,
    /// Requests without a final answer.
    sending: Vec<(&'static str, Retransmission)>,
    /// What a 200 to the INVITE is answered by, each time it comes.
    ack: Option<Vec<u8>>,
    give_up_us: u64,
}

impl Call {
    /// Begins it; the bytes are its first request.
    #[must_use]
    pub fn begin(id: String, plan: Plan, ends: (SocketAddr, SocketAddr), now_us: u64) -> (Self, Vec<u8>) {
        let (local, vip) = ends;
        let method = if plan.kind == Kind::Late { "MESSAGE" } else { "INVITE" };
        let target = format!("sip:{}@{vip}", plan.kind.user());
        let mut first = Message::new(format!("{method} {target} SIP/2.0"))
            .with("Via", format!("SIP/2.0/UDP {local};branch=z9hG4bK-{id}-1"))
            .with("Max-Forwards", "70")
            .with("From", format!("<sip:caller@{local}>;tag=caller"))
            .with("To", format!("<{target}>"))
            .with("Call-ID", id.clone())
            .with("CSeq", format!("1 {method}"))
            .with("Contact", format!("<sip:caller@{local}>"));
        for number in 0..plan.padding / 100 {
            first = first.with(&format!("X-Padding-{number:03}"), "p".repeat(83));
        }
        let bytes = first.bytes();
        let dossier = Dossier {
            id,
            plan,
            begun_us: now_us,
            ended_us: now_us,
            completed: false,
            answers: Vec::new(),
            landed: Vec::new(),
            had: Vec::new(),
        };
        let longest = method != "INVITE";
        let sending = vec![(method, Retransmission::new(bytes.clone(), longest, now_us))];
        let step = Step::Asking { cancel_us: None };
        let give_up_us = now_us + super::retransmission::TIMEOUT_US;
        (Self { dossier, local, first, step, sending, ack: None, give_up_us }, bytes)
    }

    /// Whether nothing more is to come of it.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.step, Step::Over)
    }

    /// Takes an answer; what is to be sent because of it.
    pub fn answered(&mut self, answer: &Message, now_us: u64) -> Option<Vec<u8>> {
        let (status, cseq) = (answer.status()?, answer.header("CSeq").to_owned());
        let method = cseq.split(' ').nth(1)?.to_owned();
        self.dossier.answers.push((now_us, status, cseq));
        if !self.is_over() {
            self.dossier.ended_us = now_us;
        }
        if status < 200 {
            self.provisional(&method, now_us);
            return None;
        }
        self.sending.retain(|(sent, _)| *sent != method);
        match method.as_str() {
            "INVITE" if status < 300 => Some(self.accepted(answer, now_us)),
            "INVITE" => {
                self.refused(status);
                // RFC 3261 §17.1.1.3: of the same branch, and each time the answer comes.
                let start = self.first.start.replacen("INVITE", "ACK", 1);
                let ack = self.follow(start, self.first.branch(), "1 ACK");
                Some(ack.with("To", answer.header("To")).bytes())
            }
            "MESSAGE" | "BYE" => {
                if !self.is_over() {
                    self.dossier.completed = status == 200;
                    self.step = Step::Over;
                }
                None
            }
            // The CANCEL's own answer says nothing of the call.
            _ => None,
        }
    }

    fn provisional(&mut self, method: &str, now_us: u64) {
        if method != "INVITE" {
            return;
        }
        self.sending.retain(|(sent, _)| *sent != "INVITE");
        if let Step::Asking { cancel_us } = &mut self.step {
            self.give_up_us = self.dossier.begun_us + RINGING_US;
            // RFC 3261 §9.1: any provisional answer will do, for the next one may be lost.
            if self.dossier.plan.kind == Kind::Cancel && cancel_us.is_none() {
                *cancel_us = Some(now_us + PATIENCE_US);
            }
        }
    }

    fn accepted(&mut self, answer: &Message, now_us: u64) -> Vec<u8> {
        if let Some(ack) = &self.ack {
            return ack.clone();
        }
        let ack = self.within(answer, "ACK", 1).bytes();
        self.ack = Some(ack.clone());
        if matches!(self.step, Step::Asking { .. }) {
            self.step = Step::Talking { bye_us: now_us + self.dossier.plan.talk_us, answer: Box::new(answer.clone()) };
        }
        ack
    }

    fn refused(&mut self, status: u16) {
        if self.is_over() {
            return;
        }
        let wanted = match self.dossier.plan.kind {
            Kind::Busy => Some(486),
            Kind::Cancel => Some(487),
            Kind::Call | Kind::Late | Kind::Silent | Kind::Twice => None,
        };
        self.dossier.completed = Some(status) == wanted;
        self.step = Step::Over;
    }

    /// What is to be sent now: again, or because it is due.
    pub fn due(&mut self, now_us: u64) -> Vec<Vec<u8>> {
        let mut due: Vec<Vec<u8>> = Vec::new();
        for (_, message) in &mut self.sending {
            if message.is_due(now_us) {
                due.push(message.bytes.clone());
            }
        }
        match &self.step {
            Step::Asking { cancel_us: Some(at_us) } if now_us >= *at_us => {
                let start = self.first.start.replacen("INVITE", "CANCEL", 1);
                let cancel = self.follow(start, self.first.branch(), "1 CANCEL").with("To", self.first.header("To"));
                due.push(self.request("CANCEL", &cancel, now_us));
                self.step = Step::Asking { cancel_us: Some(u64::MAX) };
            }
            Step::Talking { bye_us, answer } if now_us >= *bye_us => {
                let bye = self.within(answer, "BYE", 2);
                due.push(self.request("BYE", &bye, now_us));
                self.step = Step::Ending;
                self.give_up_us = now_us + super::retransmission::TIMEOUT_US;
            }
            Step::Asking { .. } | Step::Ending if now_us >= self.give_up_us => {
                self.step = Step::Over;
            }
            Step::Asking { .. } | Step::Talking { .. } | Step::Ending | Step::Over => {}
        }
        if self.is_over() {
            self.sending.clear();
        } else if !due.is_empty() {
            self.dossier.ended_us = now_us;
        }
        due
    }

    fn request(&mut self, method: &'static str, message: &Message, now_us: u64) -> Vec<u8> {
        let bytes = message.bytes();
        self.sending.push((method, Retransmission::new(bytes.clone(), true, now_us)));
        bytes
    }

    /// A request in the dialog that an answer has made.
    fn within(&self, answer: &Message, method: &str, number: u32) -> Message {
        let start = format!("{method} {} SIP/2.0", uri(answer.header("Contact")));
        let branch = format!("z9hG4bK-{}-{method}-{}", self.dossier.id, parameter(answer.header("To"), "tag"));
        let message = self.follow(start, &branch, &format!("{number} {method}")).with("To", answer.header("To"));
        answer.all("Record-Route").rev().fold(message, |message, route| message.with("Route", route))
    }

    /// What all requests of the call have in common.
    fn follow(&self, start: String, branch: &str, cseq: &str) -> Message {
        Message::new(start)
            .with("Via", format!("SIP/2.0/UDP {};branch={branch}", self.local))
            .with("Max-Forwards", "70")
            .with("From", self.first.header("From"))
            .with("Call-ID", self.first.header("Call-ID"))
            .with("CSeq", cseq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 1_000_000;

    fn begin(kind: Kind) -> (Call, Message) {
        let ends = (SocketAddr::from(([10, 0, 0, 1], 7060)), SocketAddr::from(([192, 0, 2, 10], 5060)));
        let (call, bytes) = Call::begin("a".to_owned(), Plan { kind, talk_us: 300_000, padding: 0 }, ends, AT);
        (call, Message::read(&bytes).unwrap_or_default())
    }

    fn answer(to: &Message, status: &str) -> Message {
        let answer = Message::new(format!("SIP/2.0 {status}")).with_all("Via", to).with_all("CSeq", to);
        answer.with("To", "<sip:b>;tag=b").with("Contact", "<sip:b>").with("Record-Route", "<sip:vip;lr>")
    }

    fn starts(sent: &[Vec<u8>]) -> Vec<String> {
        sent.iter().map(|bytes| Message::read(bytes).unwrap_or_default().start).collect()
    }

    #[test]
    fn a_call_is_answered_acknowledged_each_time_and_ended() {
        let (mut call, invite) = begin(Kind::Call);
        assert_eq!(starts(&call.due(AT + 600_000)), ["INVITE sip:call@192.0.2.10:5060 SIP/2.0"]);
        let ack = call.answered(&answer(&invite, "200 OK"), AT + 700_000);
        // Late, and again: the one means nothing, the other that the ACK was lost.
        assert_eq!(call.answered(&answer(&invite, "180 Ringing"), AT + 800_000), None);
        assert_eq!(call.answered(&answer(&invite, "200 OK"), AT + 900_000), ack);
        let bye = call.due(AT + 1_000_000);
        assert_eq!(starts(&bye), ["BYE sip:b SIP/2.0"]);
        let bye = bye.first().and_then(|bytes| Message::read(bytes)).unwrap_or_default();
        assert_eq!(bye.header("Route"), "<sip:vip;lr>");
        assert!(call.answered(&answer(&invite, "200 OK"), AT + 1_100_000).is_some() && !call.dossier.completed);
        call.answered(&answer(&bye, "200 OK"), AT + 1_200_000);
        assert!(call.dossier.completed && call.is_over() && call.due(AT + 9_000_000).is_empty());
    }

    #[test]
    fn a_call_that_rings_is_cancelled_and_one_without_an_answer_is_given_up() {
        let (mut call, invite) = begin(Kind::Cancel);
        call.answered(&answer(&invite, "180 Ringing"), AT + 100_000);
        assert!(call.due(AT + 200_000).is_empty());
        assert_eq!(starts(&call.due(AT + 300_000)), ["CANCEL sip:cancel@192.0.2.10:5060 SIP/2.0"]);
        assert!(call.answered(&answer(&invite, "487 Request Terminated"), AT + 400_000).is_some());
        assert!(call.dossier.completed);
        let (mut call, _) = begin(Kind::Busy);
        call.due(AT + 32_000_001);
        assert!(call.is_over() && !call.dossier.completed);
    }
}
