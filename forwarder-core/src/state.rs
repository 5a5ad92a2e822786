//! What a node says it is to its peers.

/// How a node is, as it says itself. A peer without a link is down, whatever it said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has just started and does not know yet what it needs: nothing new should be sent to it.
    Joining,
    /// It takes new transactions.
    Up,
    /// It is being taken out of service: it still gets what it owns, and nothing new.
    Draining,
    /// Its proxy does not answer: it still gets what it owns, and nothing new.
    ProxyDown,
}

impl State {
    /// Its name in `status`, in the metrics and for hooks.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Up => "up",
            Self::Draining => "draining",
            Self::ProxyDown => "proxy-down",
        }
    }
}
