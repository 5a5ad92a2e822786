//! The text of a probe, and which datagrams are answers to it.

use std::{collections::VecDeque, fmt::Write as _, net::SocketAddr};

use anyhow::{Result, anyhow};
use forwarder_common::sip::{Kind, full};
use ring::rand::{SecureRandom as _, SystemRandom};

/// Probes whose answers still count: a slow answer is one.
const OPEN: usize = 8;
/// Bytes of chance in what tells these probes from those of other daemons and of other times.
const CHANCE: usize = 8;

/// The probes of one service.
#[derive(Debug)]
pub(super) struct Probe {
    service: SocketAddr,
    /// Hexadecimal.
    chance: String,
    number: u32,
    /// Numbers and times of the last ones, in microseconds of the monotonic clock.
    open: VecDeque<(u32, u64)>,
}

impl Probe {
    /// Probes of the proxy at `service`.
    ///
    /// # Errors
    /// The kernel gives no randomness.
    pub(super) fn new(service: SocketAddr) -> Result<Self> {
        let mut bytes = [0; CHANCE];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|_| anyhow!("ask the kernel for randomness: it gave none"))?;
        let mut chance = String::new();
        for byte in bytes {
            // Writing to a string cannot fail.
            let _ = write!(chance, "{byte:02x}");
        }
        Ok(Self { service, chance, number: 0, open: VecDeque::with_capacity(OPEN) })
    }

    /// The next one, sent from `from` at `sent_us`.
    pub(super) fn next(&mut self, from: SocketAddr, sent_us: u64) -> String {
        // Below 2^31, as RFC 3261 §8.1.1.5 wants it.
        self.number = self.number % i32::MAX.unsigned_abs() + 1;
        if self.open.len() == OPEN {
            self.open.pop_front();
        }
        self.open.push_back((self.number, sent_us));
        let (service, chance, number) = (self.service, &self.chance, self.number);
        let host = bracketed(service);
        //= https://www.rfc-editor.org/rfc/rfc3261#section-16.3
        //# If the request contains a Max-Forwards header field with a field
        //# value of zero (0), the element MUST NOT forward the request.
        format!(
            "OPTIONS sip:{service} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {from};rport;branch=z9hG4bK{chance}-{number}\r\n\
             Max-Forwards: 0\r\n\
             From: <sip:forwarder@{host}>;tag={chance}\r\n\
             To: <sip:{service}>\r\n\
             Call-ID: {chance}\r\n\
             CSeq: {number} OPTIONS\r\n\
             Accept: application/sdp\r\n\
             User-Agent: forwarder/{version}\r\n\
             Content-Length: 0\r\n\r\n",
            version = env!("CARGO_PKG_VERSION")
        )
    }

    /// When the probe was sent that `datagram` answers, whatever the answer says; `None`: it answers none.
    pub(super) fn answered(&mut self, datagram: &[u8]) -> Option<u64> {
        let message = full::read(datagram).ok()?;
        let is_ours = message.kind == Kind::Response && message.call_id == self.chance.as_bytes();
        let branch = format!("z9hG4bK{}-{}", self.chance, message.cseq);
        if !is_ours || message.branch != Some(branch.as_bytes()) {
            return None;
        }
        let place = self.open.iter().position(|(number, _)| *number == message.cseq)?;
        // A provisional answer is followed by another one: the probe stays open.
        self.open.get(place).map(|(_, sent_us)| *sent_us)
    }
}

/// The address as it stands in a URI (RFC 3261 §25.1).
fn bracketed(address: SocketAddr) -> String {
    if address.is_ipv6() { format!("[{}]", address.ip()) } else { address.ip().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(to: &str, status: &str) -> String {
        let (_, head) = to.split_once("\r\n").unwrap();
        format!("SIP/2.0 {status}\r\n{head}")
    }

    #[test]
    fn a_probe_is_a_whole_request_that_nobody_may_pass_on() {
        let mut probe = Probe::new("[2001:db8::10]:5060".parse().unwrap()).unwrap();
        let text = probe.next("[2001:db8::10]:40000".parse().unwrap(), 1);
        let message = full::read(text.as_bytes()).unwrap();
        assert_eq!((message.kind, message.method, message.cseq), (Kind::Request, &b"OPTIONS"[..], 1));
        assert!(
            text.starts_with("OPTIONS sip:[2001:db8::10]:5060 SIP/2.0\r\nVia: SIP/2.0/UDP [2001:db8::10]:40000;rport;")
        );
        assert!(text.contains("\r\nMax-Forwards: 0\r\n") && text.ends_with("\r\nContent-Length: 0\r\n\r\n"), "{text}");
        assert!(text.contains("\r\nFrom: <sip:forwarder@[2001:db8::10]>;tag="), "{text}");
    }

    #[test]
    fn any_answer_to_one_of_the_last_probes_counts_and_nothing_else() {
        let (service, from) = ("192.0.2.10:5060".parse().unwrap(), "192.0.2.10:40000".parse().unwrap());
        let mut probe = Probe::new(service).unwrap();
        let first = probe.next(from, 100);
        let second = probe.next(from, 200);
        for status in ["100 Trying", "200 OK", "404 Not Found", "405 Method Not Allowed", "483 Too Many Hops"] {
            assert_eq!(probe.answered(answer(&first, status).as_bytes()), Some(100), "{status}");
        }
        assert_eq!(probe.answered(answer(&second, "200 OK").as_bytes()), Some(200));
        let foreign = Probe::new(service).unwrap().next(from, 300);
        let other_branch = answer(&first, "200 OK").replace("-1\r\n", "-2\r\n");
        let other_call = answer(&first, "200 OK").replace("Call-ID: ", "Call-ID: 0");
        for wrong in [answer(&foreign, "200 OK"), other_branch, other_call, first.clone(), String::new()] {
            assert_eq!(probe.answered(wrong.as_bytes()), None, "{wrong}");
        }
        (0..OPEN as u64).for_each(|n| drop(probe.next(from, n)));
        assert_eq!(probe.answered(answer(&second, "200 OK").as_bytes()), None, "too old to say anything");
    }
}
