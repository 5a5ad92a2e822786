//! What is printed for one datagram: a JSON object, or one aligned line of text.

use std::fmt;

use forwarder_common::{
    hash,
    outcome::Outcome,
    sip::full::{self, Message},
};
use serde::Serialize;

use super::datagram::Around;
use crate::foreign::escaped;

/// What is known of one datagram; the field names are an interface that stays.
#[derive(Serialize)]
pub(super) struct Line {
    frame: u64,
    keyable: bool,
    #[serde(flatten)]
    read: Read,
    /// Whether the fast path finds the key, or why it punts.
    #[serde(skip_serializing_if = "Option::is_none")]
    fast_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
    /// What the datagram is in, from outside in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    around: Vec<String>,
    /// The kernel programs do not look into such a frame: it passes as without them.
    #[serde(skip_serializing_if = "is_false")]
    passes_unread: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Read {
    Keys(Keys),
    Not { why: String },
}

#[derive(Serialize)]
struct Keys {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    call_id: String,
    cseq: u32,
    /// Empty without one.
    branch: String,
    request_key: String,
    reply_key: Option<String>,
}

impl Line {
    /// A datagram whose payload the full reader has read.
    pub(super) fn read(
        frame: u64,
        read: Result<Message<'_>, full::Unkeyable>,
        hash_key: [u64; 2],
        fast_path: String,
    ) -> Self {
        match read {
            Ok(message) => {
                let keys = Read::Keys(Keys::new(&message, hash_key));
                Self { keyable: true, read: keys, fast_path: Some(fast_path), ..Self::unreadable(frame, "") }
            }
            Err(reason) => Self::unreadable(frame, reason.reason()),
        }
    }

    /// A datagram without a key: why.
    pub(super) fn unreadable(frame: u64, why: &str) -> Self {
        Self {
            frame,
            keyable: false,
            read: Read::Not { why: why.to_owned() },
            fast_path: None,
            kernel: None,
            around: Vec::new(),
            passes_unread: false,
        }
    }

    /// The same with what the datagram is in.
    pub(super) fn around(self, around: &Around) -> Self {
        Self { around: around.names.clone(), passes_unread: around.outcome == Some(Outcome::NotService), ..self }
    }

    /// The same with what the kernel says.
    pub(super) fn with_kernel(self, kernel: String) -> Self {
        Self { kernel: Some(kernel), ..self }
    }
}

impl Keys {
    fn new(message: &Message<'_>, hash_key: [u64; 2]) -> Self {
        let branch = message.branch.unwrap_or_default();
        let (request_key, reply_key) = hash::keys(hash_key, message.call_id, message.cseq, branch);
        let request = message.status.is_none();
        Self {
            kind: if request { "request" } else { "response" },
            method: request.then(|| lossy(message.method)),
            status: message.status,
            call_id: lossy(message.call_id),
            cseq: message.cseq,
            branch: lossy(branch),
            request_key: hex(request_key),
            reply_key: message.branch.map(|_| hex(reply_key)),
        }
    }
}

/// A key as it is printed everywhere: 16 hex digits.
fn hex(key: u64) -> String {
    format!("{key:016x}")
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The head of the text form.
pub(super) const HEAD: &str =
    "   FRAME  MESSAGE           CSEQ  REQUEST KEY       REPLY KEY         FAST PATH        CALL-ID  BRANCH";

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8}  ", self.frame)?;
        match &self.read {
            Read::Not { why } => write!(f, "no key: {why}")?,
            Read::Keys(keys) => {
                let status = keys.status.map(|status| status.to_string());
                let message = escaped(keys.method.as_ref().or(status.as_ref()).map_or("", String::as_str));
                let reply_key = keys.reply_key.as_deref().unwrap_or("-");
                let fast_path = self.fast_path.as_deref().unwrap_or("-");
                write!(f, "{message:<10}  {:>10}  {}  {reply_key:<16}  {fast_path:<15}", keys.cseq, keys.request_key)?;
                write!(f, "  {}  {}", escaped(&keys.call_id), dash(&escaped(&keys.branch)))?;
            }
        }
        if !self.around.is_empty() {
            write!(f, "  in {}", self.around.join(", "))?;
        }
        if self.passes_unread {
            f.write_str("  (the programs pass it unread)")?;
        }
        self.kernel.as_ref().map_or(Ok(()), |kernel| write!(f, "  kernel {kernel}"))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
