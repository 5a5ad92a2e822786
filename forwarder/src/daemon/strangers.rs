//! SIP that leaves this host from addresses and ports that are no service's and none of their sources: it claims
//! nothing. If it looks like a proxy's, `status` says so, for a source may be missing in the configuration.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use forwarder_common::{
    abi::Address,
    net::{self, Ip},
    sip::{Kind, full},
};

/// Addresses and ports that are remembered; the one that was seen longest ago goes.
const MOST: usize = 16;
/// How long one is remembered, in microseconds.
const MEMORY_US: u64 = 600_000_000;
/// One packet may be a mistake.
const ENOUGH: u32 = 2;

/// Those that look like a proxy's.
#[derive(Debug, Default)]
pub(super) struct Strangers(BTreeMap<SocketAddr, Seen>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// In microseconds of the monotonic clock.
    last_us: u64,
    packets: u32,
}

impl Strangers {
    /// Takes a frame that the egress program has shown.
    pub(super) fn put(&mut self, frame: &[u8], now_us: u64) {
        let Some(from) = sender(frame) else { return };
        if self.0.len() >= MOST && !self.0.contains_key(&from) {
            let oldest = self.0.iter().min_by_key(|(_, seen)| seen.last_us).map(|(from, _)| *from);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        let seen = self.0.entry(from).or_insert(Seen { last_us: now_us, packets: 0 });
        *seen = Seen { last_us: now_us, packets: seen.packets.saturating_add(1) };
    }

    /// For `status`.
    pub(super) fn warnings(&self, now_us: u64) -> impl Iterator<Item = String> {
        let is_one = move |seen: &Seen| seen.packets >= ENOUGH && now_us.saturating_sub(seen.last_us) < MEMORY_US;
        self.0.iter().filter(move |(_, seen)| is_one(seen)).map(|(from, _)| {
            format!(
                "SIP as a proxy sends it leaves from {from}, which is no service's: it claims nothing; hint: if it is \
                 the proxy's, add it to `sources` in its [[service]]"
            )
        })
    }
}

/// From where a proxy sends this, if it looks like one's.
fn sender(frame: &[u8]) -> Option<SocketAddr> {
    let ip = net::frame(&frame)?;
    let at = if ip.fragment { ip.first_fragment(&frame)? } else { ip.payload };
    let udp = Ip { payload: at, ..ip }.ports(&frame)?;
    let text = frame.get(at + net::UDP..(at + udp.length).min(frame.len()))?;
    let is_answer = full::read(text).ok()?.kind == Kind::Response;
    let from = SocketAddr::new(address(ip.source(&frame)?), udp.source);
    (is_answer || is_relayed(text)).then_some(from)
}

/// Whether a request has come through another element: only that has put a second Via into it.
//= https://www.rfc-editor.org/rfc/rfc3261#section-16.6
//# The proxy MUST insert a Via header field value into the copy before the existing Via header field values.
fn is_relayed(text: &[u8]) -> bool {
    let head = text.split(|byte| *byte == b'\n').skip(1).take_while(|line| !matches!(line, [] | [b'\r']));
    let vias = head.filter_map(|line| {
        let (name, value) = line.split_at_checked(line.iter().position(|byte| *byte == b':')?)?;
        let name = name.trim_ascii();
        (name.eq_ignore_ascii_case(b"Via") || name.eq_ignore_ascii_case(b"v")).then_some(value)
    });
    // Several may share a line, with commas between them.
    vias.map(|value| 1 + value.iter().filter(|byte| **byte == b',').count()).sum::<usize>() > 1
}

fn address(address: Address) -> IpAddr {
    let mut octets = [0; 16];
    octets.iter_mut().zip(address.0.iter().flat_map(|word| word.to_ne_bytes())).for_each(|(to, from)| *to = from);
    IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ethernet frame from 10.9.2.2 or fd09::2 and this port.
    fn frame(v6: bool, port: u16, text: &str) -> Vec<u8> {
        let length = 8 + text.len() as u16;
        let udp = [port, 5060, length, 0].map(u16::to_be_bytes).concat();
        let mut frame = vec![0; 12];
        if v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([17, 64]);
            frame.extend("fd09::2".parse::<Ipv6Addr>().unwrap().octets());
            frame.extend([0; 16]);
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + length).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 2, 2, 192, 0, 2, 1]);
        }
        [frame, udp, text.as_bytes().to_vec()].concat()
    }

    fn message(start: &str, vias: &str) -> String {
        format!("{start}\r\n{vias}\r\nCall-ID: a\r\nCSeq: 1 OPTIONS\r\n\r\nVia: body\r\nv: body\r\n")
    }

    #[test]
    fn answers_and_what_was_relayed_look_like_a_proxys_and_a_clients_requests_do_not() {
        let (request, response) = ("OPTIONS sip:b SIP/2.0", "SIP/2.0 200 OK");
        let one = "Via: SIP/2.0/UDP h;branch=z9hG4bK1";
        for (text, expected) in [
            (message(response, one), true),
            (message(request, one), false),
            (message(request, &format!("{one}\r\nVIA : SIP/2.0/UDP i;branch=z9hG4bK2")), true),
            (message(request, &format!("{one}\r\nv:SIP/2.0/UDP i;branch=z9hG4bK2")), true),
            (message(request, &format!("{one}, SIP/2.0/UDP i;branch=z9hG4bK2")), true),
            ("Hello, nothing of SIP".to_owned(), false),
        ] {
            for (v6, from) in [(false, "10.9.2.2:5070"), (true, "[fd09::2]:5070")] {
                let found = sender(&frame(v6, 5070, &text));
                assert_eq!(found, expected.then(|| from.parse().unwrap()), "{text}");
            }
        }
        assert_eq!(sender(&[0; 60]), None);
    }

    #[test]
    fn what_is_seen_twice_is_said_for_ten_minutes_and_no_more_than_sixteen_are_kept() {
        let mut strangers = Strangers::default();
        let answer = message("SIP/2.0 200 OK", "Via: SIP/2.0/UDP h;branch=z9hG4bK1");
        let said = |strangers: &Strangers, now_us| strangers.warnings(now_us).collect::<Vec<_>>();
        strangers.put(&frame(false, 5070, &answer), 1);
        assert!(said(&strangers, 1).is_empty(), "once");
        strangers.put(&frame(false, 5070, &answer), 2);
        let warnings = said(&strangers, MEMORY_US + 1);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("SIP as a proxy sends it leaves from 10.9.2.2:5070, "), "{warnings:?}");
        assert!(said(&strangers, MEMORY_US + 2).is_empty());
        for port in 0..MOST as u16 {
            strangers.put(&frame(true, 6000 + port, &answer), 3);
        }
        assert_eq!(strangers.0.len(), MOST);
        assert!(said(&strangers, 4).is_empty(), "the oldest has gone");
    }
}
