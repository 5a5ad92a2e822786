//! Whom the links trust: other certificates, authorities and denied ones, and certificates that end.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forwarder_common::ids::NodeId;
use quinn::ClientConfig;
use tokio::time::Instant;

use super::super::backoff::jittered;
use super::super::link::Stop;
use super::{Link, Mesh, SIMULTANEOUS};
use crate::identity::Identity;

/// Pause between two links that are renewed.
const RENEWAL: Duration = Duration::from_millis(100);

/// Who this node is and whom it trusts; for handshakes from now on, and for the links that stand.
pub(in super::super) struct Trust {
    pub(in super::super) identity: Arc<Identity>,
    pub(in super::super) client: ClientConfig,
}

impl Mesh {
    /// New handshakes go by it; links that stand are kept unless it would not let their peers in.
    pub(super) fn set_trust(&mut self, trust: Trust) {
        let is_renewed = trust.identity.chain != self.trust.identity.chain;
        self.trust = trust;
        let refuse = |(peer, link): (&NodeId, &Link)| {
            let reason = self.trust.identity.admit_again(&link.chain).err()?;
            Some((*peer, format!("its certificate is not of this cluster any more ({reason})")))
        };
        let refused: Vec<_> = self.links.iter().filter_map(refuse).collect();
        refused.into_iter().for_each(|(peer, reason)| self.stop_link(peer, Stop::Untrusted(reason)));
        if is_renewed {
            self.renew_links();
        }
    }

    /// Shows this node's new certificate to the peers that are linked by its old one, before that ends: one after
    /// another, because each new link begins with a snapshot.
    fn renew_links(&mut self) {
        let now = Instant::now();
        for (place, (peer, link)) in (0..).zip(&self.links) {
            // A younger link could be taken for the other of two calls at once.
            let at = now.max(link.since + SIMULTANEOUS) + jittered(RENEWAL) + RENEWAL * place;
            self.calls.renew(*peer, at);
        }
    }

    pub(super) fn end_expired(&mut self) {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now_s = i64::try_from(unix).unwrap_or(i64::MAX);
        let ended = self.links.iter().filter(|(_, link)| link.expires_s < now_s).map(|(peer, _)| *peer);
        for peer in ended.collect::<Vec<_>>() {
            self.stop_link(peer, Stop::Untrusted("its certificate has ended".to_owned()));
        }
    }
}
