//! The fast reader against the full one: it may punt, but what it answers, the full reader answers too.

#![expect(clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "common/corpus.rs"]
mod common;
#[path = "common/mutate.rs"]
mod mutate;
#[path = "common/random.rs"]
mod random;

use common::corpus;
use forwarder_common::{
    hash,
    marks::Marks,
    outcome::Outcome,
    sip::{fast, full},
    verdict::Kind,
};
use mutate::{ANSWER, INVITE, mutate, token};
use random::Random;

const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
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
                check(payload, &read_in(&[payload, &tail].concat(), length));
            }
        }
    }
}

#[test]
fn what_the_fast_reader_calls_no_sip_the_full_reader_cannot_key() {
    let cases: &[&[u8]] =
        &[b"", b"\0", b"\r\n\r\n", b"\r\n\r\nOPT", b"\0\x01\0\0\x21\x12\xa4\x42x SIP/2.0\r\n", b"\x80\xc8 SIP/2.0\r\n"];
    for case in cases {
        assert!(!agree(case), "{}", case.escape_ascii());
        assert!(matches!(fast::read(case, KEY, false), Err(Outcome::NotSip | Outcome::KeepAlive)));
    }
}

/// Whether the fast reader answers; fails if the full one says otherwise.
fn agree(payload: &[u8]) -> bool {
    check(payload, &fast::read(payload, KEY, false))
}

fn check(payload: &[u8], fast: &Result<Marks, Outcome>) -> bool {
    let full = full::read(payload);
    match fast {
        Ok(marks) => assert_eq!(Ok(from_marks(payload, marks)), full.map(from_message), "{}", payload.escape_ascii()),
        Err(Outcome::NotSip | Outcome::KeepAlive) => {
            assert!(full.is_err(), "passed as no SIP, but keyable: {}", payload.escape_ascii());
        }
        Err(_) => {}
    }
    fast.is_ok()
}

/// What the two must agree on.
#[derive(Debug, PartialEq, Eq)]
struct Answer<'a> {
    kind: Kind,
    status: u16,
    invite: bool,
    call_id: &'a [u8],
    cseq: u32,
    branch: &'a [u8],
    keys: (u64, u64),
}

fn from_marks<'a>(payload: &'a [u8], marks: &Marks) -> Answer<'a> {
    let text = |at: u16, length: u16| &payload[usize::from(at)..usize::from(at) + usize::from(length)];
    let kind = match marks.kind() {
        fast::kind::REQUEST => Kind::Request,
        fast::kind::ACK => Kind::Ack,
        fast::kind::CANCEL => Kind::Cancel,
        fast::kind::RESPONSE => Kind::Response,
        other => panic!("kind {other}"),
    };
    Answer {
        kind,
        status: marks.status(),
        invite: marks.invite() != 0,
        call_id: text(marks.call_id(), marks.call_id_length()),
        cseq: marks.number(),
        branch: text(marks.branch(), marks.branch_length()),
        keys: (marks.request_key(), marks.reply_key()),
    }
}

fn from_message(message: full::Message<'_>) -> Answer<'_> {
    let full::Message { kind, method, status, call_id, cseq, branch, .. } = message;
    let (request_key, reply_key) = hash::keys(KEY, call_id, cseq, branch.unwrap_or_default());
    Answer {
        kind,
        status: status.unwrap_or_default(),
        invite: method == b"INVITE",
        call_id,
        cseq,
        branch: branch.unwrap_or_default(),
        keys: (request_key, if branch.is_some() { reply_key } else { 0 }),
    }
}

/// The fast reader on the first `length` bytes of a frame that goes on behind them, as the kernel sees it.
fn read_in(frame: &[u8], length: usize) -> Result<Marks, Outcome> {
    let m = &mut Marks::default();
    m.begin(0, length);
    fast::start_line(&frame, m)?;
    let mut next = Some(0);
    for _ in 0..fast::CHUNK * fast::CHUNKS {
        let Some(off) = next else { break };
        next = fast::step(&frame, m, off)?;
    }
    fast::cseq(&frame, m)?;
    let hash = fast::request_key(&frame, m, KEY, false)?;
    fast::reply_key(&frame, m, hash)?;
    Ok(*m)
}
