//! A member of the cluster as gossip names it.

use std::net::SocketAddr;

use foca::Identity;
use forwarder_common::ids::NodeId;
use serde::{Deserialize, Serialize};

/// What a renewal adds to a member's birth, in microseconds: a node whose clock was set back by an hour during its
/// restart must be declared down this few times (60) until its new identity wins over the one before.
const RENEWAL_US: u64 = 60_000_000;

/// One incarnation of a member. The cluster keeps one identity for each node id, so at most 1,023.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub(super) struct Member {
    pub(super) node: NodeId,
    /// Where its links listen.
    pub(super) listen: SocketAddr,
    /// When this incarnation began, in microseconds of the member's Unix time or later: the latest one wins.
    pub(super) began_us: u64,
}

type Parts = (u16, SocketAddr, u64);

impl TryFrom<Parts> for Member {
    type Error = &'static str;

    fn try_from((node, listen, began_us): Parts) -> Result<Self, Self::Error> {
        let node = NodeId::new(node).ok_or("a node id outside 1..=1023")?;
        Ok(Self { node, listen, began_us })
    }
}

impl From<Member> for Parts {
    fn from(member: Member) -> Self {
        (member.node.number(), member.listen, member.began_us)
    }
}

impl Identity for Member {
    type Addr = u16;

    fn renew(&self) -> Option<Self> {
        Some(Self { began_us: self.began_us.checked_add(RENEWAL_US)?, ..*self })
    }

    fn addr(&self) -> u16 {
        self.node.number()
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        // Two hosts of one id and birth are kept apart by the links; any fixed order will do here.
        (self.began_us, self.listen) > (other.began_us, other.listen)
    }
}
