//! Why the full reader gives no key.

/// Why a payload has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unkeyable {
    /// Nothing but CR, LF, NUL and blanks, or nothing at all (RFC 5626 §3.5.1).
    KeepAlive,
    /// The first line names no version of SIP: STUN, RTP, HTTP, anything else.
    NotSip,
    /// The first line names SIP, but is neither a request line nor a status line.
    StartLine,
    /// No Call-ID, or the first one is empty.
    MissingCallId,
    /// No CSeq.
    MissingCseq,
    /// The first CSeq does not begin with a number that white space ends.
    CseqForm,
    /// The first CSeq number exceeds 2^32-1.
    CseqRange,
}

impl Unkeyable {
    /// Its name in `explain` and in tests.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::NotSip => "not-sip",
            Self::StartLine => "start-line",
            Self::MissingCallId => "missing-call-id",
            Self::MissingCseq => "missing-cseq",
            Self::CseqForm => "cseq-form",
            Self::CseqRange => "cseq>32bit",
        }
    }
}
