//! The full reader on messages written in awkward forms, and on bytes that are none.

#![expect(clippy::indexing_slicing, reason = "tests")]

use forwarder_common::sip::{
    Kind,
    fast::{self, NoKey, SHORTEST},
    full::{Message, Unkeyable, read},
};
use proptest::{collection::vec, prelude::*, sample::select};

#[test]
fn the_shortest_message_with_a_key_needs_each_of_its_bytes() {
    let shortest = b"A SIP/2.0\ni:x\ncseq:1";
    assert_eq!(shortest.len(), SHORTEST);
    assert!(read(shortest).is_ok());
    for at in 0..shortest.len() {
        let less = [&shortest[..at], &shortest[at + 1..]].concat();
        assert!(read(&less).is_err(), "{}", less.escape_ascii());
        assert!(matches!(fast::read(&less, [1, 2], false), Err(NoKey::NotSip | NoKey::KeepAlive)));
    }
    assert!(read(b"SIP/2.0 200\ni:x\ncseq:1").is_ok(), "a response takes two more");
}

#[test]
fn a_run_of_white_space_is_a_keep_alive_and_nothing_that_is_longer_or_has_a_letter() {
    for white in [0, b'\r', b'\n', b' ', b'\t'] {
        for length in 1..=80 {
            let run = vec![white; length];
            let is_short = length <= 64;
            let expected = if is_short { NoKey::KeepAlive } else { NoKey::Form };
            assert_eq!(fast::read(&run, [1, 2], false).err(), Some(expected), "{length} of {white:#x}");
            if length > SHORTEST {
                let with_letter = [&run[..length - 1], b"a"].concat();
                assert_eq!(fast::read(&with_letter, [1, 2], false).err(), Some(NoKey::Form), "{length} of {white:#x}");
            }
        }
    }
}

/// What a message says, whatever its form.
#[derive(Clone, Debug)]
struct Content {
    method: &'static str,
    status: Option<u16>,
    call_id: String,
    cseq: u32,
    branch: Option<String>,
}

/// Draws of form, used up one by one and then begun again.
struct Form<'a> {
    draws: &'a [u8],
    at: usize,
}

impl Form<'_> {
    fn pick<'a>(&mut self, forms: &[&'a str]) -> &'a str {
        self.at += 1;
        forms[usize::from(self.draws[self.at % self.draws.len()]) % forms.len()]
    }

    /// White space that may hold folds.
    fn lws(&mut self) -> &'static str {
        self.pick(&["", " ", "\t", "  ", "\r\n ", "\n\t", "\r\n  \r\n\t ", "   \r\n "])
    }

    fn end(&mut self) -> &'static str {
        self.pick(&["\r\n", "\n"])
    }

    fn blanks(&mut self) -> &'static str {
        self.pick(&["", " ", "\t", " \t "])
    }

    fn name(&mut self, forms: &[&str]) -> String {
        let name: String = self
            .pick(forms)
            .chars()
            .map(|c| if self.pick(&["a", "A"]) == "a" { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() })
            .collect();
        format!("{name}{}:{}", self.blanks(), self.lws())
    }

    fn via(&mut self, branch: Option<&str>) -> String {
        let mut via = self.name(&["Via", "v"]);
        for part in ["SIP", "/", "2.0", "/", "UDP"] {
            via += part;
            via += self.lws();
        }
        via += self.pick(&[" 192.0.2.1", " h.example.com:5060", " [2001:db8::1]:5060", " h : 5060"]);
        for _ in 0..2 {
            via += self.lws();
            via += self.pick(&[
                "",
                ";rport",
                ";x=\"a;branch=no,\\\";branch=no\"",
                ";y = (a, (b);branch=no) z",
                ";branches=1",
                ";abranch=2",
                ";;",
                "; branch",
            ]);
        }
        if let Some(branch) = branch {
            let name = self.pick(&["branch", "BRANCH", "Branch"]);
            via += &format!("{};{}{name}{}={}{branch}", self.lws(), self.lws(), self.lws(), self.lws());
            via += self.lws();
            via += self.pick(&["", ";branch=second", ";rport=5060", ";\"", ", SIP/2.0/UDP x;branch=no", ","]);
        } else {
            via += self.pick(&["", ";rport", ";branch=", ",SIP/2.0/UDP x;branch=no", ";branch"]);
        }
        via + self.blanks()
    }

    fn other(&mut self) -> &'static str {
        self.pick(&[
            "",
            "Subject: x\r\n Call-ID: no\r\n\tCSeq: 1 NO\r\n",
            "Identity: no\n",
            "CSeqs: 9 NO\r\n",
            "Call-ID\r\n : no\r\n",
            "Call-ID-x: no\r\n",
            "X:\rCall-ID: no\r\n",
            "\x01Via: SIP/2.0/UDP x;branch=no\r\n",
            "no colon\r\n",
            ":\r\n",
            "X: \"\r\n",
        ])
    }

    fn write(&mut self, content: &Content) -> Vec<u8> {
        let mut text = self.pick(&["", "\r\n\r\n", "\n", "\0", "  \r\n"]).to_owned();
        text += &match content.status {
            Some(status) => format!("SIP/2.0 {status}{}", self.pick(&["", " OK", " Call-ID: no", "  "])),
            None => {
                let uri = self.pick(&["sip:b@h", " sip:b@h ", "sip:a b@h", "<sip:b@h>", "sip:SIP/2.0@h"]);
                format!("{} {uri} {}{}", content.method, self.pick(&["SIP/2.0", "sip/2.0", "SIP/7.12"]), self.blanks())
            }
        };
        text += self.end();
        let call_id = self.name(&["Call-ID", "i"]) + &content.call_id + self.pick(&["", " ", "\t x", "\r\n y", "\r"]);
        let zeros = self.pick(&["", "0", "0000000000000000000000000"]);
        let gap = self.pick(&[" ", "\t", "\r\n ", " \n\t"]);
        let cseq = format!("{}{zeros}{}{gap}{}{}", self.name(&["CSeq"]), content.cseq, content.method, self.lws());
        let mut headers = [call_id, cseq, self.via(content.branch.as_deref())];
        let turn = usize::from(self.draws[0]) % 3;
        headers.rotate_left(turn);
        for header in headers {
            text += self.other();
            text += &header;
            text += self.end();
        }
        text += self.pick(&["", "i: second\r\nCSeq: 8 NO\r\nv: SIP/2.0/UDP x;branch=no\r\n"]);
        text += self.pick(&["", "\r\n", "\n", "\r\nCall-ID: body\r\n", "\r\r\n\r\r\n"]);
        text.into_bytes()
    }
}

fn content() -> impl Strategy<Value = Content> {
    let method = select(vec!["INVITE", "ACK", "CANCEL", "BYE", "x!%*_+`'~", "invite", "ACKS"]);
    let status = prop::option::of(100..=999_u16);
    (method, status, r#"[!-~]{1,40}"#, any::<u32>(), prop::option::of(r#"[!-+\--:<-~]{1,40}"#))
        .prop_map(|(method, status, call_id, cseq, branch)| Content { method, status, call_id, cseq, branch })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn awkward_forms_say_what_the_plain_form_says(content in content(), draws in vec(any::<u8>(), 1..80)) {
        let text = Form { draws: &draws, at: 0 }.write(&content);
        let kind = match (content.status, content.method) {
            (Some(_), _) => Kind::Response,
            (None, "ACK") => Kind::Ack,
            (None, "CANCEL") => Kind::Cancel,
            (None, _) => Kind::Request,
        };
        let expected = Message {
            kind,
            method: content.method.as_bytes(),
            status: content.status,
            call_id: content.call_id.as_bytes(),
            cseq: content.cseq,
            cseq_method: content.method.as_bytes(),
            branch: content.branch.as_deref().map(str::as_bytes),
        };
        prop_assert_eq!(read(&text), Ok(expected), "{}", text.escape_ascii());
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
        let line = [b"BYE sip:b SIP/2.0\r\n".as_slice(), &bytes].concat();
        let _ = read(&line);
        let via = [b"BYE sip:b SIP/2.0\ni: a\ncseq: 1 BYE\nv:".as_slice(), &bytes].concat();
        prop_assert!(read(&via).is_ok());
    }

    #[test]
    fn cut_messages_never_panic_and_never_invent(
        content in content(), draws in vec(any::<u8>(), 1..80), cut: prop::sample::Index,
    ) {
        let text = Form { draws: &draws, at: 0 }.write(&content);
        let cut = &text[..cut.index(text.len())];
        if let Ok(message) = read(cut) {
            prop_assert!(content.call_id.as_bytes().starts_with(message.call_id));
        }
    }
}

#[test]
fn each_reason_has_its_message() {
    let cases: &[(&[u8], Unkeyable)] = &[
        (b"", Unkeyable::KeepAlive),
        (b"\r\n\0 \t\r\n\r\n", Unkeyable::KeepAlive),
        (b"\x00\x01\x00\x08\x21\x12\xa4\x42\n SIP/2.0\r\n", Unkeyable::NotSip),
        (b"\x80\x08 x SIP/2.0\r\n", Unkeyable::NotSip),
        (b"GET / HTTP/1.1\r\nCall-ID: a\r\nCSeq: 1 A\r\n\r\n", Unkeyable::NotSip),
        (b"INVITE sip:a SIP/2.\r\n\r\n", Unkeyable::NotSip),
        (b"SIP/2.0\r\n\r\n", Unkeyable::StartLine),
        (b"SIP/2.0 20\r\n\r\n", Unkeyable::StartLine),
        (b"SIP/2.0 2000 x\r\n\r\n", Unkeyable::StartLine),
        (b"SIP/2.0  200 x\r\n\r\n", Unkeyable::StartLine),
        (b"BYE sip:a SIP/2.0", Unkeyable::MissingCallId),
        (b"BYE sip:a SIP/2.0\r\ni:\r\ni: a\r\nCSeq: 1 BYE\r\n\r\n", Unkeyable::MissingCallId),
        (b"BYE sip:a SIP/2.0\r\nCSeq: 1 BYE\r\n\r\ni: a\r\n", Unkeyable::MissingCallId),
        (b"BYE sip:a SIP/2.0\r\ni: a\r\n\r\n", Unkeyable::MissingCseq),
        (b"BYE sip:a SIP/2.0\r\ni: a\r\n\r\r\nCSeq: 1 BYE\r\n", Unkeyable::MissingCseq),
        (b"BYE sip:a SIP/2.0\r\ni: a\r\nCSeq:\r\nCSeq: 1 BYE\r\n\r\n", Unkeyable::CseqForm),
        (b"BYE sip:a SIP/2.0\r\ni: a\r\nCSeq: 1x BYE\r\n\r\n", Unkeyable::CseqForm),
        (b"BYE sip:a SIP/2.0\r\ni: a\r\nCSeq: -1 BYE\r\n\r\n", Unkeyable::CseqForm),
        (b"BYE sip:a SIP/2.0\r\ni: a\r\nCSeq: 4294967296 BYE\r\n\r\n", Unkeyable::CseqRange),
    ];
    for (payload, reason) in cases {
        assert_eq!(read(payload), Err(*reason), "{}", payload.escape_ascii());
    }
}

#[test]
fn the_time_to_read_grows_with_the_length_alone() {
    // Forms that a reader could walk again and again; a quadratic one would take hours.
    for piece in [&b"\r"[..], b" ", b"\r\n ", b";", b"; branch", b"(", b"\"\\", b"i :\r\n", b"x:y\r\n", b"SIP/2.0 "] {
        for head in [
            &b""[..],
            b"BYE sip:b SIP/2.0\r\n",
            b"BYE sip:b SIP/2.0\r\nv:",
            b"BYE sip:b SIP/2.0\r\ni: a\r\nCSeq: 1\r\nv: x;",
        ] {
            let message = [head, &piece.repeat(4_000_000 / piece.len())].concat();
            let _ = read(&message);
        }
    }
    let long = [b"BYE sip:b SIP/2.0\r\nCSeq: ".as_slice(), &b"0".repeat(60_000), b"7 BYE\r\ni: a\r\n\r\n"].concat();
    assert_eq!(read(&long).unwrap().cseq, 7);
}
