use std::collections::BTreeSet;

use super::{proxy::Reason, *};

const SECOND: u64 = 1_000_000;

/// What happens to the node.
enum In {
    Synchronised,
    Timeout,
    Drain(bool),
    Answered,
    /// An answer to a probe of this second.
    AnsweredOf(u64),
    Silent,
    Refused,
    Sockets(&'static [u64]),
}

use In::{Answered, AnsweredOf, Drain, Refused, Silent, Sockets, Synchronised, Timeout};

fn set(inodes: &[u64]) -> BTreeSet<u64> {
    inodes.iter().copied().collect()
}

/// A node with one proxy that is probed and dead after three failures.
fn probed(inodes: &[u64]) -> States {
    States::new(vec![Proxy::new(Some(3), set(inodes))], false, 0)
}

/// Feeds one input a second from second 1 on, each with what must come of it.
fn run(states: &mut States, table: Vec<(In, &str)>) {
    for (step, (input, expected)) in table.into_iter().enumerate() {
        let now_us = (step as u64 + 1) * SECOND;
        let evidence = match input {
            Synchronised => {
                states.handle_synchronised(now_us);
                None
            }
            Timeout => {
                states.handle_timeout(now_us);
                None
            }
            Drain(drains) => {
                states.handle_drain(drains, now_us);
                None
            }
            Answered => Some(Evidence::Answered { sent_us: now_us }),
            AnsweredOf(second) => Some(Evidence::Answered { sent_us: second * SECOND }),
            Silent => Some(Evidence::Silent),
            Refused => Some(Evidence::Refused),
            Sockets(inodes) => Some(Evidence::Sockets(set(inodes))),
        };
        if let Some(evidence) = evidence {
            states.handle_evidence(0, &evidence, now_us);
        }
        assert_eq!(outputs(states), expected, "step {}", step + 1);
    }
}

fn outputs(states: &mut States) -> String {
    let outputs = std::iter::from_fn(|| states.poll_output()).map(|output| match output {
        Output::Changed { old, new } => format!("{}>{}", old.name(), new.name()),
        Output::NewEpoch => "epoch".to_owned(),
    });
    outputs.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_node_is_up_when_it_has_joined_and_its_proxy_answers_whichever_comes_first() {
    run(&mut probed(&[]), vec![(Synchronised, ""), (Sockets(&[7]), ""), (Answered, "joining>up")]);
    run(&mut probed(&[]), vec![(Answered, ""), (Sockets(&[7]), ""), (Synchronised, "joining>up")]);
}

#[test]
fn a_node_that_hears_of_nobody_is_up_after_five_seconds() {
    let mut states = States::new(vec![Proxy::new(None, BTreeSet::new())], false, 0);
    assert_eq!(states.poll_timeout(), Some(JOIN_US));
    run(
        &mut states,
        vec![(Timeout, ""), (Timeout, ""), (Timeout, ""), (Timeout, ""), (Timeout, "joining>up"), (Timeout, "")],
    );
    assert_eq!(states.poll_timeout(), None);
    assert_eq!(states.since_us(), JOIN_US);
}

#[test]
fn silence_in_a_row_is_death_and_as_many_answers_in_a_row_are_life() {
    let table = vec![
        (Synchronised, ""),
        (Answered, "joining>up"),
        (Silent, ""),
        (Silent, ""),
        (Answered, ""),
        (Silent, ""),
        (Silent, ""),
        (Silent, "up>proxy-down"),
        (Silent, ""),
        (Answered, ""),
        (Answered, ""),
        (Silent, ""),
        (Answered, ""),
        (Answered, ""),
        (Answered, "proxy-down>up"),
    ];
    run(&mut probed(&[]), table);
}

#[test]
fn a_proxy_without_a_socket_is_dead_at_once_and_its_claims_with_it() {
    let table = vec![
        (Synchronised, ""),
        (Sockets(&[7]), ""),
        (Answered, "joining>up"),
        (Sockets(&[]), "epoch up>proxy-down"),
        (Sockets(&[]), ""),
        (Refused, ""),
        (Sockets(&[8]), ""),
        (Answered, "proxy-down>up"),
        (Refused, "epoch up>proxy-down"),
        (Refused, ""),
        (Sockets(&[]), ""),
        (Sockets(&[9, 10]), ""),
        (Answered, "proxy-down>up"),
    ];
    run(&mut probed(&[]), table);
}

#[test]
fn other_sockets_than_before_are_another_life_and_one_that_stayed_is_the_same() {
    let table = vec![
        (Synchronised, ""),
        (Sockets(&[7, 8]), ""),
        (Answered, "joining>up"),
        (Sockets(&[8, 9]), ""),
        (Sockets(&[9]), ""),
        (Sockets(&[10]), "epoch"),
        (Sockets(&[10]), ""),
        (Answered, ""),
    ];
    run(&mut probed(&[]), table);
}

#[test]
fn a_proxy_that_was_restarted_while_no_daemon_ran_begins_another_life() {
    run(&mut probed(&[7]), vec![(Sockets(&[8]), "epoch"), (Answered, ""), (Synchronised, "joining>up")]);
    run(&mut probed(&[7]), vec![(Sockets(&[7]), ""), (Answered, ""), (Synchronised, "joining>up")]);
    run(&mut probed(&[7]), vec![(Sockets(&[]), "epoch"), (Synchronised, "joining>proxy-down")]);
}

#[test]
fn a_death_that_is_seen_twice_is_one_whatever_comes_first() {
    let table = vec![
        (Synchronised, ""),
        (Sockets(&[7]), ""),
        (Answered, "joining>up"),
        (Refused, "epoch up>proxy-down"),
        (Answered, "proxy-down>up"),
        (Sockets(&[8]), ""),
        (Refused, "epoch up>proxy-down"),
        (Sockets(&[]), ""),
        (Sockets(&[9]), ""),
        (Sockets(&[]), ""),
    ];
    run(&mut probed(&[]), table);
}

#[test]
fn a_firewall_that_refuses_probes_costs_one_epoch_and_no_more() {
    let table = vec![
        (Synchronised, ""),
        (Sockets(&[7]), ""),
        (Refused, "epoch joining>proxy-down"),
        (Sockets(&[7]), ""),
        (Refused, ""),
        (Sockets(&[7]), ""),
        (Refused, ""),
    ];
    run(&mut probed(&[]), table);
}

#[test]
fn the_last_answer_of_a_dead_proxy_does_not_raise_it() {
    let table = vec![
        (Synchronised, ""),
        (Answered, "joining>up"),
        (Sockets(&[]), "epoch up>proxy-down"),
        (AnsweredOf(2), ""),
        // What answers without a socket here answers all the same, such as through address translation.
        (AnsweredOf(3), "proxy-down>up"),
        (Sockets(&[]), ""),
        (Refused, "up>proxy-down"),
        (Answered, "proxy-down>up"),
        (Refused, "epoch up>proxy-down"),
    ];
    run(&mut probed(&[]), table);
}

#[test]
fn a_proxy_says_why_it_is_down() {
    let mut proxy = Proxy::new(Some(2), BTreeSet::new());
    let mut why = |evidence: &Evidence| {
        proxy.handle(evidence, 0);
        match proxy.health() {
            Health::Down(reason) => reason.to_string(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(why(&Evidence::Silent), "Unknown");
    assert_eq!(why(&Evidence::Silent), "2 probes in a row were not answered");
    assert_eq!(why(&Evidence::Failed("no route".to_owned())), "it cannot be probed: no route");
    assert_eq!(why(&Evidence::Refused), "a probe was refused: nobody listens");
    assert_eq!(why(&Evidence::Sockets(set(&[]))), "no socket is bound to its address");
    assert_eq!(why(&Evidence::Silent), "no socket is bound to its address");
    assert_eq!(why(&Evidence::Sockets(set(&[7]))), "its new socket has not answered yet");
    assert_eq!(why(&Evidence::Silent), "its new socket has not answered yet");
    assert_eq!(why(&Evidence::Silent), "2 probes in a row were not answered");
}

#[test]
fn draining_is_the_operators_word_and_stands_above_all_else() {
    let table = vec![
        (Drain(true), "joining>draining"),
        (Synchronised, ""),
        (Drain(true), ""),
        (Sockets(&[]), "epoch"),
        (Drain(false), "draining>proxy-down"),
        (Sockets(&[8]), ""),
        (Answered, "proxy-down>up"),
        (Drain(true), "up>draining"),
        (Drain(false), "draining>up"),
        (Drain(false), ""),
    ];
    let mut states = probed(&[]);
    run(&mut states, table);
    assert!(!states.handle_drain(false, 0) && states.handle_drain(true, 5) && !states.handle_drain(true, 9));
    assert_eq!(states.draining_since_us(), Some(5));
}

#[test]
fn a_drain_outlives_the_daemon() {
    let mut states = States::new(vec![Proxy::new(None, BTreeSet::new())], true, 3);
    assert_eq!(outputs(&mut states), "joining>draining");
    assert_eq!(states.draining_since_us(), Some(3));
}

#[test]
fn new_transactions_are_left_to_a_proxy_that_answers_and_to_no_other() {
    let mut states =
        States::new(vec![Proxy::new(Some(1), BTreeSet::new()), Proxy::new(None, BTreeSet::new())], false, 0);
    assert!(states.diverts(), "nothing is known of the proxy yet");
    states.handle_evidence(0, &Evidence::Answered { sent_us: 0 }, 0);
    assert!(!states.diverts(), "joining, but with a proxy");
    states.handle_drain(true, 0);
    assert!(states.diverts());
    states.handle_drain(false, 0);
    states.handle_evidence(0, &Evidence::Failed("no route".to_owned()), 0);
    assert!(states.diverts());
    let why = Reason::Failed("no route".to_owned());
    assert_eq!(states.proxies()[0].health(), &Health::Down(why));
    states.handle_evidence(1, &Evidence::Refused, 0);
    assert_eq!(states.proxies()[1].health(), &Health::Trusted, "it is not probed");
    states.handle_evidence(2, &Evidence::Refused, 0);
}
