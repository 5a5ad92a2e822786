//! SIP messages in all forms that RFC 3261's grammar allows, and in many that it does not.

use super::choices::Choices;

const LEADS: &[&str] =
    &["", "\r\n", "\n", "\r\n\r\n", " ", "\t", "\0", "\0\0\0\0\0\0\0\0\0", "\r", "\r\n \t\0\r\n", "\u{feff}"];
const ENDS: &[&str] = &["\r\n", "\n", "\r", "\r\r\n", "\n\r", "\r\n\r\n", "\0\r\n", " \r\n", "\u{85}"];
const USUAL_METHODS: &[&str] = &["INVITE", "INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "REGISTER", "PRACK"];
const METHODS: &[&str] = &[
    "INVITE",
    "ACK",
    "CANCEL",
    "BYE",
    "invite",
    "Ack",
    "INVITEX",
    "ACKS",
    "CANCE",
    "A",
    "-.!%*_+`'~0",
    "9",
    "INVITE\t",
    "",
    "SIP/2.0",
    "SIP/2.0x",
    "\u{e4}",
    "(x)",
];
const URIS: &[&str] = &[
    "sip:bob@example.com",
    "sips:b",
    "tel:+1-201-555-0123",
    "sip:[2001:db8::10]:5060;transport=udp",
    "sip:a b@c",
    "",
    "<sip:a@b>",
    "sip:%00%ff@h?Call-ID=no",
    "sip:a@b SIP/2.0",
    "*",
    "sip:a\t@b",
    "\"q\" <sip:x>",
];
const VERSIONS: &[&str] = &[
    "SIP/2.0",
    "sip/2.0",
    "SIP/3.0",
    "SIP/02.00",
    "SIP/2.",
    "SIP/2.0 ",
    "SIP/2.0\t",
    "HTTP/1.1",
    "",
    "SIP/2.0 x",
    "SIP /2.0",
];
const BLANKS: &[&str] = &[" ", "  ", "\t", "", " \t ", "\r\n ", "\u{a0}"];
const USUAL_STATUSES: &[&str] = &["200 OK", "100 Trying", "180 Ringing", "183 ", "486 Busy Here", "487"];
const STATUSES: &[&str] = &[
    "200 OK",
    "100 Trying",
    "180 Ringing",
    "183 ",
    "486 Busy Here",
    "487",
    "999 x",
    "20",
    "2000 x",
    "200OK",
    "2x0 x",
    "",
    "200 SIP/2.0",
    " 200 OK",
    "200\tOK",
    "000 x",
    "407 \"Proxy\" (x\\",
    "700 \u{fc}",
];
const COLONS: &[&str] =
    &[": ", ":", " : ", "\t:\t", ":      ", "         : ", ":\r\n ", " :\r\n\t", "", " ", "::", ":\0", "\r\n :"];
const CALL_IDS: &[&str] = &[
    "a84b4c76e66710@pc33.example.com",
    "a",
    "3848276298220188511@192.0.2.1",
    "-._~!*'()<>:\\\"/[]?{}",
    "a b",
    "\"a b\"@c",
    "",
    "\u{e4}@b",
    "a\0b",
    "a,b",
    "a;b",
    "(c)a",
    "a\\",
    "[2001:db8::1]",
    "a\u{7f}",
    " ",
    "\r\n b",
];
const USUAL_CSEQS: &[&str] = &["1 INVITE", "1 INVITE", "7 ACK", "4711 BYE", "0 A", "0007 CANCEL", "4294967295 INVITE"];
const CSEQS: &[&str] = &[
    "1 INVITE",
    "7 ACK",
    "4711 BYE",
    "0 A",
    "0007 CANCEL",
    "00000000000000004 INVITE",
    "000000000000000004 INVITE",
    "12345678 INVITE",
    "123456789 INVITE",
    "4294967295 INVITE",
    "4294967296 INVITE",
    "99999999999 A",
    "1\tINVITE",
    "1  INVITE",
    "1",
    "1INVITE",
    "x INVITE",
    "-1 A",
    "+1 A",
    "1\r\n INVITE",
    "",
    "1 ",
    "1 INVITEX",
    "1 \0",
    "1.0 A",
    "0x1 A",
    "1\0INVITE",
    "1 I",
];
const PROTOCOLS: &[&str] = &[
    "SIP/2.0/UDP ",
    "SIP / 2.0 / UDP ",
    "SIP/2.0/udp ",
    "SIP/2.0/TLS-SCTP\t",
    "SIP/2.0/UDP\r\n ",
    "SIP/2.0/UDP",
    "",
    "x ",
];
const HOSTS: &[&str] = &[
    "192.0.2.1:5060",
    "h.example.com",
    "[2001:db8::1]",
    "[2001:db8::1]:5060",
    "h : 5060",
    "h (a;branch=no,\\)) ",
    "",
    "\"h;branch=no\"",
    "h,SIP/2.0/UDP i;branch=second",
    "[::ffff:192.0.2.1",
    "h\0",
];
const PARAMETERS: &[&str] = &[
    "",
    ";rport",
    ";received=192.0.2.7",
    ";maddr=[2001:db8::1]",
    ";x=\"a;branch=no,\\\"\"",
    ";x=\"",
    ";ttl=1 ",
    " ; lr ",
    ";\r\n rport",
    ";(c;branch=no)",
    ";branchx=1",
    ";xbranch=2",
    ";=",
    ";;",
    "(;branch=no",
    ",",
    ";x=\\;",
    "<;branch=no>",
];
const BRANCHES: &[&str] = &[
    ";branch=z9hG4bK",
    ";BRANCH=z9hG4bK",
    ";Branch=z9hG4bK",
    ";branch = z9hG4bK",
    "; branch=z9hG4bK",
    ";branch= z9hG4bK",
    " ;branch=z9hG4bK",
    ";branch\t=z9hG4bK",
    ";branch=",
    ";branch",
    ";branch =",
    ";branch=\"z9hG4bK\"",
    ";branch=\r\n z9",
    ";\r\n branch=z9",
    ";branch=a;branch=b",
    "",
    ";branch=z9(c)",
    ";branch=\0",
    ";branch=\u{e4}",
    ";branch=a=b",
    ";branch\0=x",
];
const OTHERS: &[&str] = &[
    "Max-Forwards: 70",
    "From: \"A. \\\"B\\\" (x)\" <sip:a@b>;tag=1",
    "t: <sip:b@c>",
    "Contact: <sip:[2001:db8::1]:5060>",
    "Content-Length: 0",
    "l:0",
    "Call-ID2: no",
    "Call-I: no",
    "CSeqX: 9 no",
    "Via2: no",
    "V-ia: no",
    "Identity: no",
    "Vary: c",
    ": no",
    "no colon at all",
    "Subject: a\r\n Call-ID: folded\r\n\tCSeq: 9 folded",
    "Call-ID",
    "\tCall-ID: fold",
    "X:\0\0",
    "Route: <sip:a;lr>,\r\n <sip:b;lr>",
    "(Via: no)",
    "c: text/plain",
    "I : no",
    "Record-Route: <sip:v;ftag=i:>",
];
const TOKENS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    "\r\n ",
    "\0",
    ":",
    ";",
    ",",
    "=",
    "\"",
    "(",
    "\\",
    "\u{1}",
    "\u{7f}",
    "9",
    "00000000",
    "\r\nCall-ID: ",
    "\r\ni:",
    "\r\nCSeq: 1 A",
    "\r\nv:",
    "branch=",
    "SIP/2.0",
    "\r\n\r\n",
    "x",
    "\u{20ac}",
];

/// A message that the choices make.
pub fn message(choices: &mut Choices<'_>) -> Vec<u8> {
    let is_odd = choices.once_in(2);
    let mut writer = Writer { choices, is_odd, text: String::new() };
    writer.message();
    let Writer { choices, text, .. } = writer;
    spoilt(choices, is_odd, text.into_bytes())
}

#[derive(Clone, Copy)]
enum Header {
    Via,
    CallId,
    CSeq,
    Other,
    Long,
}

struct Writer<'a, 'b> {
    choices: &'a mut Choices<'b>,
    /// Any part may be odd; in a plain message each but one or two is the usual one.
    is_odd: bool,
    text: String,
}

impl Writer<'_, '_> {
    fn pick(&mut self, of: &[&'static str]) -> &'static str {
        if self.is_odd || self.choices.once_in(16) { self.choices.mostly_first(of) } else { of[0] }
    }

    fn put(&mut self, of: &[&'static str]) {
        let picked = self.pick(of);
        self.text += picked;
    }

    fn message(&mut self) {
        let end = self.pick(ENDS);
        self.put(LEADS);
        self.start_line();
        self.text += end;
        for header in self.headers() {
            self.header(header);
            self.text += if self.is_odd && self.choices.once_in(16) { self.choices.any(ENDS) } else { end };
        }
        self.text += end;
        if self.choices.once_in(4) {
            self.text += "Call-ID: body\r\nCSeq: 9 BODY\r\nVia: SIP/2.0/UDP body;branch=body\r\n\r\n";
        }
    }

    fn start_line(&mut self) {
        if self.choices.once_in(2) {
            self.put(VERSIONS);
            self.put(BLANKS);
            self.text += self.choices.any(if self.is_odd { STATUSES } else { USUAL_STATUSES });
            return;
        }
        self.text += self.choices.any(if self.is_odd { METHODS } else { USUAL_METHODS });
        self.put(BLANKS);
        self.put(URIS);
        self.put(BLANKS);
        self.put(VERSIONS);
    }

    /// Which headers there are, and in which order.
    fn headers(&mut self) -> Vec<Header> {
        let mut headers = vec![Header::Via, Header::CallId, Header::CSeq];
        for _ in 0..self.choices.below(4) {
            headers.insert(self.choices.below(headers.len() + 1), Header::Other);
        }
        let first = self.choices.below(headers.len());
        headers.rotate_left(first);
        if self.is_odd {
            for _ in 0..self.choices.below(3) {
                let more = self.choices.any(&[Header::Via, Header::CallId, Header::CSeq, Header::Long]);
                headers.insert(self.choices.below(headers.len() + 1), more);
            }
            if self.choices.once_in(4) {
                headers.remove(self.choices.below(headers.len()));
            }
        }
        headers
    }

    fn header(&mut self, header: Header) {
        match header {
            Header::Via => {
                self.name(&["Via", "v", "VIA", "V", "via"]);
                self.via();
            }
            Header::CallId => {
                self.name(&["Call-ID", "i", "CALL-ID", "I", "call-id"]);
                self.call_id();
            }
            Header::CSeq => {
                self.name(&["CSeq", "CSEQ", "cseq", "cSeQ"]);
                self.text += self.choices.any(if self.is_odd { CSEQS } else { USUAL_CSEQS });
            }
            Header::Other => self.text += self.choices.any(OTHERS),
            // Up to the bounds of the fast reader, and beyond.
            Header::Long => {
                let (times, line) =
                    (self.choices.below(160), self.choices.any(&["x", "\r\n ", "X: y\r\n", ",;=\"abc"]));
                self.text += "X-Long: ";
                self.text += &line.repeat(times);
            }
        }
    }

    fn name(&mut self, of: &[&'static str]) {
        self.text += if self.choices.once_in(3) { self.choices.any(of) } else { of[0] };
        self.put(COLONS);
    }

    fn via(&mut self) {
        let several = if self.choices.once_in(8) { 1 + self.choices.below(3) } else { 1 };
        for one in 0..several {
            self.text += if one == 0 { "" } else { self.choices.any(&[", ", ",", ",\r\n ", " ,"]) };
            self.put(PROTOCOLS);
            self.put(HOSTS);
            for _ in 0..self.choices.below(3) {
                self.put(PARAMETERS);
            }
            self.put(BRANCHES);
            let serial = self.choices.below(4);
            self.text += &format!("{serial}{}", "b".repeat(if serial == 3 { self.choices.below(160) } else { 0 }));
            self.put(PARAMETERS);
        }
    }

    fn call_id(&mut self) {
        let serial = self.choices.below(1 << 16);
        let length = if self.choices.once_in(8) { self.choices.below(160) } else { 0 };
        self.text += &format!("{serial:x}{}", "c".repeat(length));
        self.put(CALL_IDS);
    }
}

/// With some bytes that are no text, gone or another's, and maybe cut off.
fn spoilt(choices: &mut Choices<'_>, is_odd: bool, mut message: Vec<u8>) -> Vec<u8> {
    let edits = if is_odd && choices.once_in(2) { choices.below(4) } else { 0 };
    for _ in 0..edits {
        let at = choices.below(message.len().clamp(1, 1 << 16)).min(message.len());
        let gone = (at + choices.below(4)).min(message.len());
        let token = choices.any(TOKENS).as_bytes();
        match choices.below(4) {
            0 => drop(message.splice(at..at, token.iter().copied())),
            1 => drop(message.splice(at..gone, token.iter().copied())),
            2 => drop(message.drain(at..gone)),
            _ => message.iter_mut().skip(at).take(1).for_each(|byte| *byte = choices.byte()),
        }
    }
    if choices.once_in(12) {
        let length = choices.below(message.len() + 1);
        message.truncate(length);
    }
    message
}
