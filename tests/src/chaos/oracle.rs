//! Which losses are excusable: the proxy that owned a call died, or the call needed a path that was cut.
//!
//! The death, the stop, the restart or the stall of a daemon is no excuse, for the proxy lives. Nor is a cut of the
//! daemons' links alone, a loss or a delay, a drain, a change of secrets, or a wrong clock.

use super::call::Dossier;
use super::fault::Fault;
use super::injector::Done;

/// What a loss is put down to where a later claim has won for good: of two claims the earlier by wall clocks wins.
pub const WRONG_CLOCK: &str = "skew: a later claim won, by a clock that is behind";
/// How long a packet may be on its way to a proxy, in microseconds.
const TRANSIT_US: u64 = 500_000;
/// How long the fault may be over that an inexcusable loss is put down to, in microseconds: links come back meanwhile.
const AFTERMATH_US: u64 = 3_000_000;

/// How long after its interface is up again a host may be out of reach, in microseconds: what was sent to it meanwhile
/// waits at the router, which asks for its address once a second (retrans_time of arp(7)), and lands late.
const RESOLVED_US: u64 = 1_000_000;

/// What the oracle says of a lost call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// A proxy that owned a transaction of it was killed before it ended.
    ProxyDied,
    /// Its owner was cut off, or one of its packets came to a host, or was to go through a tunnel, that was cut then.
    PathCut,
    /// Neither. The text names what was going on: the fault's word, and where it was.
    Inexcusable(String),
}

impl Verdict {
    /// Whether nobody could have done better.
    #[must_use]
    pub const fn is_excusable(&self) -> bool {
        matches!(self, Self::ProxyDied | Self::PathCut)
    }
}

/// Judges a lost call by what was done meanwhile.
#[must_use]
pub fn judge(call: &Dossier, done: &[Done]) -> Verdict {
    if done.iter().any(|done| has_killed_a_proxy_of(done, call)) {
        Verdict::ProxyDied
    } else if done.iter().any(|done| has_cut_a_path_of(done, call)) {
        Verdict::PathCut
    } else {
        Verdict::Inexcusable(label(call, done))
    }
}

/// The owners of the call's transactions, each with when: whose proxy had a message of it first.
fn owners(call: &Dossier) -> impl Iterator<Item = (u64, u8)> {
    let is_first = |place: usize, number: u32| call.had.iter().take(place).all(|(_, _, earlier)| *earlier != number);
    let firsts = call.had.iter().enumerate().filter(move |(place, (_, _, number))| is_first(*place, *number));
    firsts.map(|(_, (at, edge, _))| (*at, *edge))
}

/// The proxy owned a transaction of the call before it was killed, and the call had not ended.
fn has_killed_a_proxy_of(done: &Done, call: &Dossier) -> bool {
    let Fault::KillProxy(dead) = done.fault else { return false };
    owners(call).any(|(at, edge)| edge == dead && at <= done.from_us) && done.from_us <= call.ended_us
}

/// An owner of the call was cut off, a packet of it came to a host that was, or to one whose way to an owner was.
fn has_cut_a_path_of(done: &Done, call: &Dossier) -> bool {
    let to_us = done.to_us + if matches!(done.fault, Fault::Flap(_)) { RESOLVED_US } else { 0 };
    let meanwhile = |at: &u64| done.from_us <= *at && *at <= to_us;
    let owned = |wanted: u8| owners(call).any(|(_, edge)| edge == wanted);
    let overlap = call.begun_us <= done.to_us && done.from_us <= call.ended_us;
    // Each fragment lands elsewhere, and one node makes the datagram whole.
    let in_fragments = call.plan.padding > 0 && overlap;
    match done.fault {
        Fault::Flap(cut) | Fault::CutHost(cut) => {
            // An owner sends all that it sends through its interface.
            in_fragments
                || (owned(cut) && overlap)
                || call.landed.iter().any(|(at, edge, _)| meanwhile(at) && *edge == cut)
        }
        Fault::CutTunnel(cut) => {
            let elsewhere = |edge: u8| owners(call).any(|(_, owner)| owner != edge);
            let needs = |edge: u8| if edge == cut { elsewhere(edge) } else { owned(cut) };
            in_fragments || call.landed.iter().any(|(at, edge, _)| meanwhile(at) && needs(*edge))
        }
        Fault::KillDaemon(_)
        | Fault::StopDaemon(_)
        | Fault::Upgrade(_)
        | Fault::Skew(..)
        | Fault::Stall(_)
        | Fault::KillProxy(_)
        | Fault::CutLinks(_)
        | Fault::Drain(_)
        | Fault::LoseLinks(_)
        | Fault::LoseTunnel(_)
        | Fault::DelayLinks(_)
        | Fault::DelayTunnel(_)
        | Fault::Rotate => false,
    }
}

/// What went on when the call was lost: at an owner first of all, then where it landed, then anywhere.
fn label(call: &Dossier, done: &[Done]) -> String {
    if is_taken_by_a_clock_behind(call, done) {
        return WRONG_CLOCK.to_owned();
    }
    let during = |done: &&Done| done.from_us <= call.ended_us && call.begun_us <= done.to_us + AFTERMATH_US;
    let owned = |done: &Done| done.fault.edge().is_some_and(|at| owners(call).any(|(_, edge)| edge == at));
    let landed = |done: &Done| done.fault.edge().is_some_and(|at| call.landed.iter().any(|(_, edge, _)| *edge == at));
    let rank = |done: &Done| match (done.fault.edge(), owned(done), landed(done)) {
        (Some(_), true, _) => (0, "at its owner"),
        (Some(_), false, true) => (1, "where it landed"),
        (None, ..) => (2, "between all edges"),
        (Some(_), false, false) => (3, "at another edge"),
    };
    let first = done.iter().filter(during).min_by_key(|done| (rank(done).0, is_harmless(done.fault)));
    first.map_or_else(|| "nothing".to_owned(), |done| format!("{} {}", done.fault.word(), rank(done).1))
}

/// Whether the last message of the call came to another node than its owner, whose clock is behind the owner's.
fn is_taken_by_a_clock_behind(call: &Dossier, done: &[Done]) -> bool {
    let skew = |wanted: u8| {
        let seconds = |done: &Done| {
            let Fault::Skew(edge, seconds) = done.fault else { return None };
            (edge == wanted && done.from_us <= call.begun_us).then_some(seconds)
        };
        done.iter().filter_map(seconds).next_back().unwrap_or_default()
    };
    // What the proxies' own timers send later says nothing.
    let is_in_time = |(at, ..): &&(u64, u8, u32)| *at <= call.ended_us + TRANSIT_US;
    let Some((_, last, number)) = call.had.iter().rev().find(is_in_time) else { return false };
    let owner = call.had.iter().find(|(_, _, other)| other == number);
    owner.is_some_and(|(_, owner, _)| owner != last && skew(*last) < skew(*owner))
}

/// Of two faults at once a loss is put down to the one that takes something away.
const fn is_harmless(fault: Fault) -> bool {
    matches!(fault, Fault::Drain(_) | Fault::Rotate | Fault::DelayLinks(_) | Fault::DelayTunnel(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::call::Plan;
    use crate::sipp::Kind;

    /// A call from 10 s to 14 s that landed at edges 1, 2 and 3, and that the proxy of edge 2 had.
    fn call() -> Dossier {
        Dossier {
            id: "lost".to_owned(),
            plan: Plan { kind: Kind::Call, talk_us: 0, padding: 0 },
            begun_us: 10_000_000,
            ended_us: 14_000_000,
            completed: false,
            answers: Vec::new(),
            landed: vec![(10_000_000, 2, 1), (11_000_000, 1, 1), (13_000_000, 3, 2)],
            // An answer came to edge 3 before edge 2's claim, and is no sign that edge 3 owns it.
            had: vec![(10_000_500, 2, 1), (10_300_000, 3, 1)],
        }
    }

    fn verdict(fault: Fault, from_us: u64, to_us: u64) -> Verdict {
        judge(&call(), &[Done { fault, from_us, to_us }])
    }

    #[test]
    fn only_the_death_of_a_proxy_that_had_the_call_is_an_excuse() {
        assert_eq!(verdict(Fault::KillProxy(2), 10_600_000, 12_000_000), Verdict::ProxyDied);
        for (fault, from_us) in [
            (Fault::KillProxy(2), 10_000_000),
            (Fault::KillProxy(2), 14_500_000),
            (Fault::KillProxy(1), 10_600_000),
            (Fault::KillProxy(3), 10_600_000),
            (Fault::KillDaemon(2), 10_600_000),
            (Fault::Stall(2), 10_600_000),
        ] {
            assert!(!verdict(fault, from_us, 15_000_000).is_excusable(), "{fault} at {from_us}");
        }
    }

    #[test]
    fn only_a_path_that_a_packet_needed_while_it_was_cut_is_an_excuse() {
        for fault in [Fault::CutHost(1), Fault::Flap(1), Fault::CutTunnel(1), Fault::CutTunnel(2)] {
            assert_eq!(verdict(fault, 10_900_000, 11_100_000), Verdict::PathCut, "{fault}");
            assert!(!verdict(fault, 11_100_000, 12_900_000).is_excusable(), "{fault} between two packets");
        }
        // It waited at the router for as long.
        assert_eq!(verdict(Fault::Flap(1), 8_000_000, 10_100_000), Verdict::PathCut);
        for (fault, to_us) in [(Fault::Flap(1), 9_900_000), (Fault::CutHost(1), 10_100_000)] {
            assert!(!verdict(fault, 8_000_000, to_us).is_excusable(), "{fault} until {to_us}");
        }
        assert_eq!(verdict(Fault::Flap(2), 11_100_000, 12_900_000), Verdict::PathCut, "at its owner at any time");
        for fault in [Fault::CutHost(4), Fault::CutTunnel(3), Fault::CutLinks(1), Fault::LoseTunnel(5)] {
            assert!(!verdict(fault, 10_900_000, 11_100_000).is_excusable(), "{fault}");
        }
    }

    #[test]
    fn an_inexcusable_loss_is_put_down_to_what_was_nearest() {
        let done = |fault, from_us| Done { fault, from_us, to_us: from_us + 1_000_000 };
        let all = [
            done(Fault::KillDaemon(5), 10_000_000),
            done(Fault::Stall(1), 10_000_000),
            done(Fault::Drain(2), 10_000_000),
            done(Fault::KillDaemon(2), 10_000_000),
            done(Fault::LoseLinks(5), 10_000_000),
        ];
        let wanted = Verdict::Inexcusable("kill-daemon at its owner".to_owned());
        assert_eq!(judge(&call(), &all), wanted);
        assert_eq!(judge(&call(), &[done(Fault::Upgrade(2), 1_000_000)]), Verdict::Inexcusable("nothing".to_owned()));
        // Its last message came to edge 3.
        let skew = |edge, seconds| [done(Fault::Skew(edge, seconds), 1_000_000), done(Fault::Stall(2), 10_000_000)];
        let label = |done: &[Done]| label(&call(), done);
        assert_eq!((label(&skew(3, -60)), label(&skew(2, 60))), (WRONG_CLOCK.to_owned(), WRONG_CLOCK.to_owned()));
        assert_eq!(label(&skew(3, 60)), "stall at its owner");
    }
}
