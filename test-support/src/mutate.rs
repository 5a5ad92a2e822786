//! Messages with edits at places where they matter, for readers to agree on.

use crate::random::Random;

/// A message that needs no corpus.
pub const INVITE: &[u8] =
    b"INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bK74bf9\r\n\
    Max-Forwards: 70\r\nFrom: Alice <sip:alice@example.com>;tag=9fxced76sl\r\nTo: <sip:bob@example.com>\r\n\
    Call-ID: 3848276298220188511@example.com\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\nCall-ID: body\r\n";

/// A message of the compact and folded kind, CSeq last.
pub const ANSWER: &[u8] =
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

/// One of the pieces.
pub fn token(random: &mut Random) -> &'static [u8] {
    TOKENS[random.below(TOKENS.len())]
}

/// One of `messages` with up to five edits; one in ten is cut off.
pub fn mutate(random: &mut Random, messages: &[Vec<u8>]) -> Vec<u8> {
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
