//! Who broke the protocol a little while ago, and is kept out for it.

use std::collections::BTreeMap;

use forwarder_common::ids::NodeId;
use tokio::time::Instant;

use super::backoff::Backoff;

struct Penalty {
    until: Instant,
    backoff: Backoff,
}

/// At most one for each node id that there can be.
#[derive(Default)]
pub(super) struct Penalties(BTreeMap<NodeId, Penalty>);

impl Penalties {
    pub(super) fn is_kept_out(&self, peer: NodeId, now: Instant) -> bool {
        self.0.get(&peer).is_some_and(|penalty| penalty.until > now)
    }

    /// The peer has broken the protocol; until when it is kept out.
    pub(super) fn add(&mut self, peer: NodeId, now: Instant) -> Instant {
        let penalty = self.0.entry(peer).or_insert_with(|| Penalty { until: now, backoff: Backoff::of_penalties() });
        penalty.until = now + penalty.backoff.fail();
        penalty.until
    }

    pub(super) fn forgive(&mut self, peer: NodeId) {
        self.0.remove(&peer);
    }
}
