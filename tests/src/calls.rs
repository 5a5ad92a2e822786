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

/// The calls of [`Kind::Call`], apart by when they began: before the first of `borders`, from it on, and so forth. A border is
/// in microseconds since 1970.
#[must_use]
pub fn tally<const N: usize>(datagrams: &[Datagram], family: Family, borders: [u64; N]) -> Vec<Tally> {
    let caller = (Host::Client.address(family), Kind::Call.caller());
    let mut calls: HashMap<String, (u64, bool)> = HashMap::new();
    for datagram in datagrams {
        let Some(call_id) = datagram.header("Call-ID") else { continue };
        if datagram.source == caller && datagram.payload.starts_with(b"INVITE ") {
            calls.entry(call_id).or_insert((datagram.micros, false));
        } else if datagram.destination == caller
            && datagram.payload.starts_with(b"SIP/2.0 200 ")
            && datagram.header("CSeq").as_deref() == Some("2 BYE")
            && let Some((_, completed)) = calls.get_mut(&call_id)
        {
            *completed = true;
        }
    }
    let mut tallies = vec![Tally::default(); N + 1];
    for (begun, completed) in calls.into_values() {
        let phase = borders.iter().filter(|border| **border <= begun).count();
        if let Some(tally) = tallies.get_mut(phase) {
            tally.begun += 1;
            tally.completed += u64::from(completed);
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
