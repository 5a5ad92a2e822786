//! Single calls in a capture: when each began, and whether it went to its end.

use std::collections::HashMap;

use crate::capture::Datagram;
use crate::lab::{Family, Host};
use crate::sipp::Kind;

/// What became of the calls that began in a certain time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls.
    pub begun: u64,
    /// Those whose caller got the answer to its BYE.
    pub completed: u64,
}

impl Tally {
    /// Calls that did not go to their end.
    #[must_use]
    pub const fn lost(self) -> u64 {
        self.begun - self.completed
    }
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its Call-ID.
    pub id: String,
    /// When its first INVITE was sent, in microseconds since 1970.
    pub begun: u64,
    /// Whether its caller got the answer to its BYE.
    pub completed: bool,
    /// The caller's requests: when, and the number of the CSeq.
    pub requests: Vec<(u64, u32)>,
}

/// The calls of [`Kind::Call`], in the order of their beginnings.
#[must_use]
pub fn calls(datagrams: &[Datagram], family: Family) -> Vec<Call> {
    let caller = (Host::Client.address(family), Kind::Call.caller());
    let mut calls: HashMap<String, Call> = HashMap::new();
    for datagram in datagrams {
        let Some(id) = datagram.header("Call-ID") else { continue };
        let cseq = datagram.header("CSeq").unwrap_or_default();
        if datagram.source == caller && datagram.is_sip() {
            let (id, begun, number) = (id.clone(), datagram.micros, cseq.split(' ').next().unwrap_or_default());
            let new = || Call { id: id.clone(), begun, completed: false, requests: Vec::new() };
            let call = calls.entry(id.clone()).or_insert_with(new);
            call.requests.push((begun, number.parse().unwrap_or_default()));
        } else if datagram.destination == caller
            && datagram.payload.starts_with(b"SIP/2.0 200 ")
            && cseq == "2 BYE"
            && let Some(call) = calls.get_mut(&id)
        {
            call.completed = true;
        }
    }
    let mut calls: Vec<Call> = calls.into_values().collect();
    calls.sort_by_key(|call| call.begun);
    calls
}

/// The same calls counted, apart by when they began: before the first of `borders`, from it on, and so forth. A border
/// is in microseconds since 1970.
#[must_use]
pub fn tally<const N: usize>(datagrams: &[Datagram], family: Family, borders: [u64; N]) -> Vec<Tally> {
    let mut tallies = vec![Tally::default(); N + 1];
    for call in calls(datagrams, family) {
        let phase = borders.iter().filter(|border| **border <= call.begun).count();
        if let Some(tally) = tallies.get_mut(phase) {
            tally.begun += 1;
            tally.completed += u64::from(call.completed);
        }
    }
    tallies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart_by_when_they_began() {
        let (caller, vip) = ((Host::Client.address(Family::V4), Kind::Call.caller()), (Family::V4.vip(), 5060));
        let message = |micros, start: &str, call: &str, cseq: &str| {
            let (source, destination) = if start.starts_with("SIP") { (vip, caller) } else { (caller, vip) };
            let payload = format!("{start}\r\nCall-ID: {call}\r\nCSeq: {cseq}\r\n\r\n").into_bytes();
            Datagram { frame: 1, micros, source, destination, payload }
        };
        let list = [
            message(1, "INVITE sip:call@a SIP/2.0", "early", "1 INVITE"),
            message(9, "INVITE sip:call@a SIP/2.0", "early", "1 INVITE"),
            message(5, "INVITE sip:call@a SIP/2.0", "late", "1 INVITE"),
            message(6, "SIP/2.0 200 OK", "late", "1 INVITE"),
            message(20, "SIP/2.0 200 OK", "early", "2 BYE"),
        ];
        let wanted = [Tally { begun: 1, completed: 1 }, Tally { begun: 1, completed: 0 }, Tally::default()];
        assert_eq!(tally(&list, Family::V4, [5, 6]), wanted);
    }
}
