//! Whatever message the local proxy sends: the loaded egress program claims what the host's full reader and rules say,
//! or gives the daemon a copy.

use std::collections::BTreeMap;

use test_support::{
    corpus,
    mutate::{ANSWER, INVITE, mutate},
    random::Random,
};

use super::{
    frames::Sip,
    leaving::{SETTINGS, Sender, check},
};

/// Random messages for each of four settings.
const MESSAGES: usize = 10_000;
/// The longest payload of a test run: a page less headers, headroom and tail.
const LONGEST: usize = 3400;

/// Messages of each kind, for others to be made of.
fn messages() -> Vec<Vec<u8>> {
    let requests = ["INVITE", "ACK", "CANCEL", "BYE", "REGISTER"].map(|method| Sip::request(method, "call").bytes());
    let responses = [(100, "INVITE"), (183, "INVITE"), (200, "INVITE"), (486, "INVITE"), (200, "BYE")];
    let responses = responses.map(|(status, method)| Sip::response(status, method, "call").bytes());
    let empty_line = [b"\r\n".as_slice(), INVITE].concat();
    requests.into_iter().chain(responses).chain([INVITE.to_vec(), ANSWER.to_vec(), empty_line]).collect()
}

#[test]
fn what_leaves_is_claimed_as_the_host_reads_it_in_every_random_message() {
    let messages = messages();
    let mut random = Random::new(0xe94e55);
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    for setting in SETTINGS {
        let mut bench = setting.bench();
        for _ in 0..MESSAGES {
            let (message, from) = (mutate(&mut random, &messages), Sender::ALL[random.below(6)]);
            let account = check(&mut bench, &mut |bound| random.below(bound), &from.frame(&message), setting);
            *outcomes.entry(account.outcome.name()).or_default() += 1;
        }
    }
    // Each end that a message can come to was reached often enough to mean something.
    let ends = ["claimed", "foreign", "no_claim", "not_service", "other", "owner", "punted"]
        .map(|end| format!("egress_{end}"));
    assert!(outcomes.keys().eq(&ends), "{outcomes:?}");
    assert!(outcomes.values().all(|count| count * 100 >= MESSAGES), "{outcomes:?}");
}

#[test]
fn what_leaves_is_claimed_as_the_host_reads_it_in_every_corpus_message() {
    let test = "what_leaves_is_claimed_as_the_host_reads_it_in_every_corpus_message";
    let Some(messages) = corpus::corpus(test) else { return };
    let mut random = Random::new(0xc0295);
    let mut below = |bound| random.below(bound);
    for setting in SETTINGS {
        let mut bench = setting.bench();
        for message in messages.iter().filter(|message| message.payload.len() < LONGEST) {
            for from in Sender::ALL {
                let account = check(&mut bench, &mut below, &from.frame(&message.payload), setting);
                let has_key = message.expected["keyable"] == true;
                assert!(has_key || account.told.is_empty(), "{} has no key", message.file);
            }
        }
    }
}
