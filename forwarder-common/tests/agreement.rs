//! The fast reader against the full one: it may punt, but what it answers, the full reader answers too.

use forwarder_common::sip::fast::{self, NoKey};
use test_support::{
    agree::{agree, agree_in},
    corpus::corpus,
    mutate::{ANSWER, INVITE, mutate, token},
    random::Random,
};

const MUTATIONS: usize = if cfg!(debug_assertions) { 200_000 } else { 1_000_000 };

#[test]
fn what_the_fast_reader_answers_the_full_reader_answers_too() {
    let mut messages = vec![INVITE.to_vec(), ANSWER.to_vec()];
    let found = corpus("what_the_fast_reader_answers_the_full_reader_answers_too (on the corpus)").unwrap_or_default();
    messages.extend(found.into_iter().map(|message| message.payload));
    let answered = messages.iter().filter(|message| agree(message)).count();
    assert!(answered * 10 >= messages.len() * 9, "the fast reader answers only {answered} of {}", messages.len());

    let mut random = Random::new(0x5eed);
    let mutated = (0..MUTATIONS).filter(|_| agree(&mutate(&mut random, &messages))).count();
    assert!(mutated * 4 >= MUTATIONS, "the fast reader answers only {mutated} of {MUTATIONS} mutated messages");
}

#[test]
fn bytes_behind_the_datagram_change_nothing() {
    let mut random = Random::new(0xface);
    for message in [INVITE, ANSWER] {
        for length in 0..message.len() {
            let payload = &message[..length];
            let mut tails = vec![message[length..].to_vec()];
            tails.extend((0..8).map(|_| [token(&mut random), token(&mut random), &[b' '; 16][..]].concat()));
            for tail in tails {
                agree_in(&[payload, &tail].concat(), 0..length, false);
            }
        }
    }
}

#[test]
fn what_the_fast_reader_calls_no_sip_the_full_reader_cannot_key() {
    let cases: &[&[u8]] = &[
        b"",
        b"\0",
        b"\r\n\r\n",
        b"\r\n\r\nOPT",
        b"\0\x01\0\0\x21\x12\xa4\x42x SIP/2.0\r\n",
        // Its type and length look like a keep-alive before a request.
        b"\0\0\0\0\x21\x12\xa4\x42 SIP/2.0\ni:e\ncseq:3 X\n",
        b"\x80\xc8 SIP/2.0\r\n",
    ];
    for case in cases {
        assert!(!agree(case), "{}", case.escape_ascii());
        assert!(matches!(fast::read(case, [0, 0], false), Err(NoKey::NotSip | NoKey::KeepAlive)));
    }
}
