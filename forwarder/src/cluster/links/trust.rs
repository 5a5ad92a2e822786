//! Who this node is and whom it trusts; for handshakes from now on, and for the links that stand.

use std::sync::Arc;

use quinn::ClientConfig;

use crate::identity::Identity;

pub(super) struct Trust {
    pub(super) identity: Arc<Identity>,
    /// How this node calls by it.
    pub(super) client: ClientConfig,
}
