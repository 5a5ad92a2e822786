//! The fast reader against the full one: it may punt, but what it answers, the full reader answers too.

#![expect(clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "common/corpus.rs"]
mod common;
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
use random::Random;

const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
const MUTATIONS: usize = if cfg!(debug_assertions) { 200_000 } else { 1_000_000 };

/// A message that needs no corpus.
const INVITE: &[u8] =
    b"INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bK74bf9\r\n\
    Max-Forwards: 70\r\nFrom: Alice <sip:alice@example.com>;tag=9fxced76sl\r\nTo: <sip:bob@example.com>\r\n\
    Call-ID: 3848276298220188511@example.com\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\nCall-ID: body\r\n";

/// A message of the compact and folded kind, CSeq last.
const ANSWER: &[u8] =
    b"SIP/2.0 200 OK\nv:SIP/2.0/UDP h.example.com;received=192.0.2.7 ;branch=z9hG4bKnashds8,SIP/2.0/UDP b\n\
    v: SIP/2.0/UDP second;branch=no\ni: a84b4c76e66710\nt: <sip:x@y>\n ;tag=1\ncseq:  314159 INVITE\n\n";

/// Pieces whose place in a message matters.
#[rustfmt::skip] // one a line would fill two pages
const TOKENS: &[&[u8]] = &[
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\r\n ", b"\n\t", b"\r\r\n", b"\0", b":", b";", b",", b"=", b"\"", b"(",
    b")", b"\\", b"\x01", b"\x80", b"\xff", b"0", b"9", b"00000000", b"4294967295", b"4294967296", b"Call-ID:",
    b"\r\nCall-ID: ", b"\r\nCall-ID : x@y\r\n", b"\r\ni:", b"i", b"\r\nCSeq: ", b"\r\ncSEQ:7 ACK\r\n", b"CSeq",
    b"\r\nVia: ", b"\r\nv:", b"Via", b"branch", b"branch=", b";branch=", b";branch =", b";branch= ", b"; branch=",
    b";BRANCH=a", b";branch=\r\n x", b";branch;", b"SIP/2.0", b" SIP/2.0\r\n", b"SIP/2.0 200 OK\r\n", b"sip/2.0",
    b"SIP/3.0", b"SIP/3.0 ", b"SIP/2.0 ", b"INVITE", b"ACK ", b"CANCEL ", b"ACK\t", b"INVITE\r\n", b"\r\n\r\n",
    b"\n\n", b"    ", b"                                ", b"\xe2\x82\xac", b"HTTP/1.1",
];

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

fn token(random: &mut Random) -> &'static [u8] {
    TOKENS[random.below(TOKENS.len())]
}

/// One of `messages` with up to five edits; one in ten is cut off.
fn mutate(random: &mut Random, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut message = messages[random.below(messages.len())].clone();
    for _ in 0..random.below(6) {
        // Where the headers are.
        let at = random.below(message.len().min(700) + 1);
        let gone = (at + random.below(4)).min(message.len());
        let token = token(random);
        match random.below(4) {
            0 => drop(message.splice(at..at, token.iter().copied())),
            1 => drop(message.splice(at..gone, token.iter().copied())),
            2 => drop(message.drain(at..gone)),
            _ => {
                // At a place where tokens matter: behind a delimiter.
                let delimiter = |byte: &u8| matches!(byte, b':' | b';' | b'=' | b' ' | b'\n');
                let at = message[at..].iter().position(delimiter).map_or(at, |more| at + more + 1);
                drop(message.splice(at..at, token.iter().copied()));
            }
        }
    }
    if random.once_in(10) {
        message.truncate(random.below(message.len() + 1));
    }
    message
}
