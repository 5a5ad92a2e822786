//! What a peer may do wrong.

use std::{fmt, net::IpAddr};

use crate::wire::WireError;

/// Why a peer's message breaks the protocol; the shell drops the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The bytes are no message of this version.
    Wire(WireError),
    /// Something before the hello.
    BeforeHello,
    /// A hello of another run of the peer's daemon on the same link.
    OtherIncarnation,
    /// More messages or claims than any node has to say.
    Flood,
    /// Its underlay address is not its own.
    Underlay {
        /// What it says.
        said: IpAddr,
        /// Where its link comes from.
        link: Option<IpAddr>,
    },
    /// A datagram that is no gossip.
    Gossip(WireError),
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wire(error) => write!(f, "{error}"),
            Self::BeforeHello => write!(f, "a message before the hello"),
            Self::OtherIncarnation => write!(f, "a second introduction as somebody else"),
            Self::Flood => write!(f, "a flood of messages or claims"),
            Self::Underlay { said, link } => {
                write!(f, "its underlay address {said} is neither its link's")?;
                link.map_or(Ok(()), |link| write!(f, " ({link})"))?;
                write!(f, " nor one that its certificate names; hint: correct `underlay` on that node, or issue it ")?;
                write!(f, "a certificate with --address {said}")
            }
            Self::Gossip(error) => write!(f, "a datagram that is no gossip: {error}"),
        }
    }
}

impl std::error::Error for ProtocolError {}
