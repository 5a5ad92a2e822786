//! Scenarios in other shapes: larger messages, and a caller that does not wait.

use super::scribe::Form;

/// How a scenario differs from its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// What is put into the caller's INVITE or MESSAGE.
    pub request: Option<Padding>,
    /// What is put into each of the callee's answers.
    pub answer: Option<Padding>,
    /// Whether the caller cancels without a pause.
    pub at_once: bool,
    /// Whether the callee takes no notice of an INVITE that comes again after its final answer, as RFC 6026 §7.1 asks.
    /// sipp itself ends such a call.
    pub absorbs: bool,
    /// How both ends write their messages, where not plainly.
    pub form: Option<Form>,
}

/// More bytes in a message, at a certain place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    /// How many, to within a line.
    pub bytes: usize,
    /// Where.
    pub place: Place,
}

/// Where a message is padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In headers before Call-ID and CSeq.
    BeforeKeys,
    /// In headers after them.
    AfterKeys,
    /// In the body; a message without one stays as it is.
    Body,
}

/// Bytes of a padding line with its line end: one of many, none of them long.
const LINE: usize = 100;
/// The indentation of the scenarios' files, which sipp takes away.
const INDENT: &str = "      ";

impl Shape {
    /// The caller's scenario in this shape.
    #[must_use]
    pub fn caller(self, scenario: &str) -> String {
        // A pause that is left out would shift sipp's count of messages, to which [branch-N] refers.
        let pauses = [200, 1].map(|millis| format!("<pause milliseconds=\"{millis}\"/>"));
        let [before, after] = &pauses;
        let scenario = if self.at_once { scenario.replace(before, after) } else { scenario.to_owned() };
        let Some(padding) = self.request else { return scenario };
        padded(&scenario, padding, |start| start.starts_with("INVITE ") || start.starts_with("MESSAGE "))
    }

    /// The callee's scenario in this shape.
    #[must_use]
    pub fn callee(self, scenario: &str) -> String {
        const ACK: &str = "<recv request=\"ACK\"/>";
        let absorbing = || format!("<label id=\"1\"/><recv request=\"INVITE\" optional=\"true\" next=\"1\"/>{ACK}");
        let scenario = if self.absorbs { scenario.replace(ACK, &absorbing()) } else { scenario.to_owned() };
        let Some(padding) = self.answer else { return scenario };
        padded(&scenario, padding, |start| start.starts_with("SIP/2.0 "))
    }
}

/// Pads each message of a scenario whose start line `fits`.
fn padded(scenario: &str, padding: Padding, fits: fn(&str) -> bool) -> String {
    let mut text = String::with_capacity(scenario.len() + padding.bytes);
    let mut inside = false;
    for line in scenario.split_inclusive('\n') {
        let words = line.trim();
        if words.starts_with("]]>") {
            inside = false;
        }
        inside |= line.starts_with(INDENT) && fits(words);
        if inside && padding.place.before(words) {
            text.push_str(&padding.lines());
        }
        text.push_str(line);
        if inside && padding.place.after(words) {
            text.push_str(&padding.lines());
        }
    }
    text
}

impl Place {
    fn before(self, line: &str) -> bool {
        match self {
            Self::BeforeKeys => line.starts_with("Call-ID:") || line.starts_with("[last_Call-ID:]"),
            Self::AfterKeys => line.starts_with("Content-Length:"),
            Self::Body => false,
        }
    }

    fn after(self, line: &str) -> bool {
        self == Self::Body && line.starts_with("a=rtpmap:")
    }
}

impl Padding {
    /// Its lines, each another one.
    fn lines(self) -> String {
        let mut text = String::new();
        let mut left = self.bytes;
        for number in 1.. {
            let start = match self.place {
                Place::Body => format!("a=x-padding-{number}:"),
                Place::BeforeKeys | Place::AfterKeys => format!("X-Padding-{number}: "),
            };
            // Two bytes are the line's end on the wire.
            let size = left.min(LINE);
            if size < start.len() + 3 {
                break;
            }
            text.push_str(INDENT);
            text.push_str(&start);
            text.extend(std::iter::repeat_n('p', size - start.len() - 2));
            text.push('\n');
            left -= size;
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of a scenario, as sipp sends them.
    fn messages(scenario: &str) -> Vec<String> {
        let blocks = scenario.split("<![CDATA[").skip(1).filter_map(|block| block.split_once("]]>"));
        blocks
            .map(|(block, _)| block.trim_start().lines().map(|line| format!("{}\r\n", line.trim())).collect())
            .collect()
    }

    #[test]
    fn only_the_invite_grows_and_by_what_was_asked() {
        let scenario = include_str!("../../scenarios/call-client.xml");
        for (place, earlier) in [(Place::BeforeKeys, true), (Place::AfterKeys, false), (Place::Body, false)] {
            let shape = Shape { request: Some(Padding { bytes: 2600, place }), ..Shape::default() };
            let (before, after) = (messages(scenario), messages(&shape.caller(scenario)));
            let grown: Vec<usize> =
                before.iter().zip(&after).map(|(before, after)| after.len() - before.len()).collect();
            assert_eq!(grown, [2600, 0, 0], "{place:?}");
            let at = |text: &str| after.first().and_then(|message| message.find(text));
            assert_eq!(at("adding-1:") < at("Call-ID:"), earlier, "{place:?}");
        }
    }

    #[test]
    fn every_answer_grows_and_no_request() {
        let scenario = include_str!("../../scenarios/busy-carrier.xml");
        let padding = Padding { bytes: 200, place: Place::BeforeKeys };
        let shape = Shape { answer: Some(padding), ..Shape::default() };
        assert_eq!(shape.callee(scenario).matches("X-Padding-2: p").count(), 1);
        assert_eq!(shape.caller(scenario), scenario);
    }
}
