//! As much of SIP as the soak's own ends read and write: a start line and plain headers.
//!
//! sipp takes any 200 for the answer it waits for, and gives a call up where a provisional answer comes late; what is
//! lost by that says nothing. So the soak's ends keep to RFC 3261 in what faults bring about.

use std::fmt::Write as _;

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Its first line.
    pub start: String,
    headers: Vec<(String, String)>,
}

impl Message {
    /// A message with that first line.
    #[must_use]
    pub fn new(start: impl Into<String>) -> Self {
        Self { start: start.into(), headers: Vec::new() }
    }

    /// Reads one; none where it is no SIP.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, _) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let start = lines.next().filter(|line| line.contains("SIP/2.0"))?.to_owned();
        let headers = lines.map(|line| line.split_once(':').map(|(name, value)| (name.trim(), value.trim())));
        let headers = headers.map(|header| header.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Some(Self { start, headers: headers.collect::<Option<_>>()? })
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Adds all headers of a name of another message.
    #[must_use]
    pub fn with_all(self, name: &str, of: &Self) -> Self {
        of.all(name).fold(self, |message, value| message.with(name, value))
    }

    /// The first header of a name; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    /// All headers of a name, in their order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
        self.headers.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The method of a request; none of a response.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.start.split(' ').next().filter(|word| *word != "SIP/2.0")
    }

    /// The status of a response; none of a request.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    /// The branch of the topmost Via.
    #[must_use]
    pub fn branch(&self) -> &str {
        parameter(self.header("Via"), "branch")
    }

    /// The bytes on the wire; there is no body.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.start);
        for (name, value) in &self.headers {
            // Writing to a string cannot fail.
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("Content-Length: 0\r\n\r\n");
        text.into_bytes()
    }
}

/// A header's parameter; empty where it lacks it.
#[must_use]
pub fn parameter<'a>(header: &'a str, name: &str) -> &'a str {
    let found = header.split(';').skip(1).filter_map(|part| part.split_once('='));
    found.filter(|(known, _)| known.trim() == name).map(|(_, value)| value.trim()).next().unwrap_or_default()
}

/// The address between angle brackets of a header.
#[must_use]
pub fn uri(header: &str) -> &str {
    header.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(header, |(uri, _)| uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let message = Message::new("INVITE sip:call@a SIP/2.0")
            .with("Via", "SIP/2.0/UDP b;branch=z9hG4bK1")
            .with("Record-Route", "<sip:c;lr>")
            .with("Record-Route", "<sip:d;lr>");
        let read = Message::read(&message.bytes()).unwrap_or_default();
        assert_eq!((read.method(), read.status(), read.branch()), (Some("INVITE"), None, "z9hG4bK1"));
        assert_eq!(read.all("record-route").map(uri).collect::<Vec<_>>(), ["sip:c;lr", "sip:d;lr"]);
        let answer = Message::new("SIP/2.0 487 Request Terminated").bytes();
        assert_eq!(Message::read(&answer).and_then(|answer| answer.status()), Some(487));
        assert_eq!(Message::read(b"\0\0"), None);
    }
}
