//! Many machines that hear of each other late: who is up while their proxies are silent.

use std::collections::BTreeSet;

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::failover::timers::LAST_US;

/// A word of one machine on its way to another.
struct Word {
    at_us: u64,
    from: usize,
    to: usize,
    said: Introduction,
}

/// Machines with one probed proxy each, all linked, and what is on its way between them.
struct Group {
    machines: Vec<Failover>,
    said: Vec<Introduction>,
    words: Vec<Word>,
    /// How long a word is on its way to the other end, for each pair, in microseconds.
    latency_us: Box<dyn Fn(usize, usize) -> u64>,
    /// Pairs that hear nothing of each other.
    cut: BTreeSet<(usize, usize)>,
    now_us: u64,
    /// Changes of each machine's state.
    changes: Vec<usize>,
    /// The fewest that were up at any moment since this was last set.
    fewest: usize,
}

impl Group {
    /// So many machines that are up, and what they keep up.
    fn up(count: usize, keep_up: usize, latency_us: impl Fn(usize, usize) -> u64 + 'static) -> Self {
        let machine = |number| {
            let services = vec![(SERVICE.parse().unwrap(), Proxy::new(Some(1), set(&[7])))];
            let inherited = inherited(&[], false);
            let node = id(number);
            let (first_epoch, first_ticket) = (Epoch::new(5), 7);
            Failover::new(
                Settings { node, services, has_seeds: count > 1, keep_up, inherited, first_epoch, first_ticket },
                0,
            )
        };
        let said = Introduction {
            state: State::Joining,
            is_silent: false,
            epochs: Epochs::from_bits(1),
            underlay: "10.9.3.2".parse().unwrap(),
            served: Served::ALL,
        };
        let mut group = Self {
            machines: (1..).take(count).map(machine).collect(),
            said: vec![said; count],
            words: Vec::new(),
            latency_us: Box::new(latency_us),
            cut: BTreeSet::new(),
            now_us: 0,
            changes: vec![0; count],
            fewest: 0,
        };
        for a in 0..count {
            for b in (0..count).filter(|b| *b != a) {
                group.link(a, b);
            }
        }
        (0..count).for_each(|host| group.evidence(host, &Evidence::Answered { sent_us: 0 }));
        group.run_for(10 * SECOND);
        assert!((0..count).all(|host| group.is_up(host)), "{}", group.states());
        group.changes = vec![0; count];
        group.fewest = count;
        group
    }

    fn link(&mut self, at: usize, peer: usize) {
        let number = |host: usize| id(host as u16 + 1);
        let address = "10.9.3.2:7470".parse().unwrap();
        self.machines[at].handle_link_up(number(peer), address, &[], false, self.now_us);
        self.say(peer, at);
        self.take(at);
    }

    fn say(&mut self, from: usize, to: usize) {
        let at_us = self.now_us + (self.latency_us)(from, to);
        self.words.push(Word { at_us, from, to, said: self.said[from] });
    }

    fn cut(&mut self, a: usize, b: usize) {
        for (at, peer) in [(a, b), (b, a)] {
            self.cut.insert((at, peer));
            let peer = id(peer as u16 + 1);
            self.machines[at].handle_link_down(peer, LinkEnd::Silent, "timed out".to_owned(), self.now_us);
            self.take(at);
        }
    }

    fn heal(&mut self, a: usize, b: usize) {
        for (at, peer) in [(a, b), (b, a)] {
            self.cut.remove(&(at, peer));
            self.link(at, peer);
        }
    }

    fn evidence(&mut self, host: usize, evidence: &Evidence) {
        self.machines[host].handle_evidence(0, evidence, self.now_us);
        self.take(host);
    }

    fn silence(&mut self, host: usize) {
        self.evidence(host, &Evidence::Silent);
    }

    fn answer(&mut self, host: usize) {
        self.evidence(host, &Evidence::Answered { sent_us: self.now_us });
    }

    fn drain(&mut self, host: usize, drains: bool) {
        self.machines[host].handle_drain(drains, self.now_us);
        self.take(host);
    }

    fn is_up(&self, host: usize) -> bool {
        self.machines[host].state().0 == State::Up
    }

    fn count(&self) -> usize {
        (0..self.machines.len()).filter(|host| self.is_up(*host)).count()
    }

    /// A letter for each machine: up, kept up, out, draining, joining.
    fn states(&self) -> String {
        let letter = |machine: &Failover| match machine.state().0 {
            State::Up if machine.is_kept_up() => 'k',
            State::Up => 'u',
            State::ProxyDown => 'o',
            State::Draining => 'd',
            State::Joining => 'j',
        };
        self.machines.iter().map(letter).collect()
    }

    /// What a machine has decided goes to the others.
    fn take(&mut self, host: usize) {
        while let Some(output) = self.machines[host].poll_output() {
            let Output::State { old, new, is_silent } = output else { continue };
            self.changes[host] += usize::from(old != new);
            self.said[host] = Introduction { state: new, is_silent, ..self.said[host] };
            (0..self.machines.len()).filter(|to| *to != host).for_each(|to| self.say(host, to));
        }
        self.fewest = self.fewest.min(self.count());
    }

    fn run_for(&mut self, for_us: u64) {
        let until_us = self.now_us + for_us;
        while self.now_us < until_us {
            let word_us = self.words.iter().map(|word| word.at_us).min().unwrap_or(u64::MAX);
            let turns = self.machines.iter().map(|machine| machine.poll_timeout(self.now_us));
            let next_us = turns.fold(word_us, u64::min).clamp(self.now_us, until_us);
            self.now_us = if next_us == self.now_us && word_us > next_us { next_us + 1 } else { next_us };
            let now_us = self.now_us;
            let (due, later): (Vec<_>, Vec<_>) = self.words.drain(..).partition(|word| word.at_us <= now_us);
            self.words = later;
            for Word { from, to, said, .. } in due {
                if !self.cut.contains(&(to, from)) {
                    self.machines[to].handle_introduction(id(from as u16 + 1), said, now_us);
                    self.take(to);
                }
            }
            for host in 0..self.machines.len() {
                self.machines[host].handle_turn(|| true, now_us);
                self.take(host);
            }
        }
    }
}

const MS: u64 = 1000;

#[test]
fn of_all_whose_proxies_fall_silent_in_one_moment_the_first_stays_and_all_come_back() {
    for latency_us in [0, MS, 300 * MS, LINK_IDLE_US] {
        let mut group = Group::up(3, 1, move |_, _| latency_us);
        (0..3).for_each(|host| group.silence(host));
        group.run_for(10 * SECOND);
        assert_eq!((group.states().as_str(), group.fewest), ("koo", 1), "{latency_us}");
        assert_eq!(group.changes, [0, 1, 1], "nobody goes and comes");
        (0..3).for_each(|host| group.answer(host));
        assert_eq!(group.states(), "uuu");
    }
}

#[test]
fn of_two_that_fall_silent_one_after_the_other_one_is_up_at_each_moment_whatever_lies_between() {
    for (first, second) in [(0, 1), (1, 0)] {
        for apart_us in (0..3 * LAST_US).step_by(100_000) {
            let mut group = Group::up(2, 1, |_, _| LINK_IDLE_US);
            group.silence(first);
            group.run_for(apart_us);
            group.silence(second);
            group.run_for(5 * LAST_US);
            let states = group.states();
            assert!(matches!(states.as_str(), "ko" | "ok") && group.fewest == 1, "{apart_us}: {states}");
        }
    }
}

#[test]
fn a_proxy_that_is_silent_alone_takes_its_node_out() {
    let mut group = Group::up(3, 1, |_, _| 50 * MS);
    group.silence(0);
    group.run_for(LAST_US - 1);
    assert_eq!(group.states(), "uuu");
    assert_eq!(group.machines[1].successor(0), Some(id(3)), "but new transactions are nobody's to leave to it");
    group.run_for(2);
    assert_eq!(group.states(), "ouu");
    group.answer(0);
    assert_eq!(group.states(), "uuu");
}

#[test]
fn a_node_alone_stays_unless_it_is_told_to_keep_nobody() {
    for (keep_up, expected) in [(1, "k"), (0, "o")] {
        let mut group = Group::up(1, keep_up, |_, _| 0);
        group.silence(0);
        group.run_for(10 * SECOND);
        assert_eq!(group.states(), expected);
        assert!(group.machines[0].diverts(), "where anybody else is to be had");
        assert_eq!(group.machines[0].successor(0), None);
    }
}

#[test]
fn a_proxy_that_has_stopped_is_no_reason_to_stay_and_a_silent_one_comes_up_for_it() {
    let mut group = Group::up(2, 1, |_, _| MS);
    group.silence(1);
    group.run_for(2 * LAST_US);
    assert_eq!(group.states(), "uo");
    group.evidence(0, &Evidence::Sockets(set(&[])));
    assert_eq!(group.states(), "oo", "its socket is gone");
    group.run_for(2 * LAST_US);
    assert_eq!(group.states(), "ok");
    group.evidence(1, &Evidence::Sockets(set(&[])));
    group.run_for(2 * LAST_US);
    assert_eq!(group.states(), "oo");
    group.evidence(1, &Evidence::Sockets(set(&[9])));
    group.run_for(2 * LAST_US);
    assert_eq!(group.states(), "ok", "somebody is there again who may only be drowned");
    group.evidence(0, &Evidence::Sockets(set(&[9])));
    group.answer(0);
    group.run_for(2 * LAST_US);
    assert_eq!(group.states(), "uo");
}

#[test]
fn who_stays_is_not_who_drains() {
    let mut group = Group::up(3, 1, |_, _| MS);
    (0..3).for_each(|host| group.silence(host));
    group.run_for(2 * LAST_US);
    assert_eq!(group.states(), "koo");
    group.drain(0, true);
    assert_eq!(group.states(), "doo", "the operator's word counts at once");
    group.run_for(2 * LAST_US);
    assert_eq!(group.states(), "dko");
    group.drain(0, false);
    group.run_for(2 * LAST_US);
    assert_eq!(group.states(), "oko", "the one that is up stays");
}

#[test]
fn each_side_of_a_partition_keeps_its_own_and_one_of_them_goes_when_it_is_over() {
    let mut group = Group::up(4, 1, |_, _| 20 * MS);
    for (a, b) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
        group.cut(a, b);
    }
    group.run_for(SECOND);
    (0..4).for_each(|host| group.silence(host));
    group.run_for(2 * LAST_US);
    assert_eq!(group.states(), "koko");
    for (a, b) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
        group.heal(a, b);
    }
    group.run_for(2 * LAST_US);
    assert_eq!(group.states(), "kooo");
}

#[test]
fn the_death_of_the_last_one_brings_another_one_up() {
    let mut group = Group::up(3, 1, |_, _| 20 * MS);
    (0..3).for_each(|host| group.silence(host));
    group.run_for(2 * LAST_US);
    group.cut(0, 1);
    group.cut(0, 2);
    group.run_for(PATH_US + LAST_US + SECOND);
    assert_eq!(&group.states()[1..], "ko");
}

#[test]
fn a_peer_that_lacks_a_service_stands_in_for_nobody_who_has_it() {
    let mut group = Group::up(2, 1, |_, _| MS);
    group.said[1].served = Served::default();
    group.silence(1);
    group.answer(1);
    group.run_for(SECOND);
    group.silence(0);
    group.run_for(2 * LAST_US);
    assert_eq!(group.states(), "ku");
}

#[test]
fn a_loop_that_was_late_reads_what_was_said_before_it_goes() {
    let mut group = Group::up(2, 1, |_, _| MS);
    group.silence(1);
    group.run_for(LAST_US / 2);
    group.silence(0);
    // Node 2 hears nothing of that while its loop stalls.
    let late_us = group.now_us + LAST_US;
    group.machines[1].handle_turn(|| true, late_us);
    group.take(1);
    assert!(group.is_up(1));
}

proptest! {
    #[test]
    fn never_are_fewer_up_than_are_to_be_kept_while_proxies_fall_silent_and_answer_by_chance(
        (count, keep_up) in (2..6_usize, 1..4_usize),
        latencies in vec(0..LINK_IDLE_US, 36),
        steps in vec((0..6_usize, option::of(0..2 * LAST_US)), 1..40),
    ) {
        let mut group = Group::up(count, keep_up, move |from, to| latencies[from * 6 + to]);
        let mut is_silent = [false; 6];
        for (host, pause_us) in steps {
            let host = host % count;
            is_silent[host] = !is_silent[host];
            if is_silent[host] { group.silence(host) } else { group.answer(host) }
            group.run_for(pause_us.unwrap_or_default());
        }
        let least = keep_up.min(count);
        prop_assert!(group.fewest >= least, "{} of {count} were up, {keep_up} to keep", group.fewest);
        group.run_for(5 * LAST_US);
        let answering = is_silent[..count].iter().filter(|is_silent| !**is_silent).count();
        prop_assert_eq!(group.count(), answering.max(least), "{}", group.states());
    }
}
