//! Who is let in: a chain that TLS has verified, a node of this cluster, not denied, not at its end.

use forwarder_common::ids::NodeId;
use ring::digest;
use rustls::{
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{CertificateDer, UnixTime},
    server::ParsedCertificate,
};

use super::{Identity, expiry, peer_id};
use crate::config::Deny;

/// What a peer's chain says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its node id.
    pub node: NodeId,
    /// When the first certificate of its chain ends, in seconds since 1970.
    pub expires_s: i64,
}

impl Identity {
    /// The node of a chain whose signatures, times and purposes TLS has verified.
    ///
    /// # Errors
    /// Why it is kept out, in a few words: no node of this cluster, or denied. Any bytes are safe to ask about.
    pub fn admit(&self, chain: &[CertificateDer<'_>]) -> Result<Peer, String> {
        let own = chain.first().ok_or("it shows no certificate")?;
        let node = peer_id(own, &self.cluster).map_err(|error| error.to_string())?;
        denied(&self.deny, node, chain)?;
        let expires_s = chain_end(chain).map_err(|error| error.to_string())?;
        Ok(Peer { node, expires_s })
    }

    /// Whether a chain that an earlier identity admitted is good still: for links that stand when the authorities or the list of
    /// the denied have changed.
    ///
    /// # Errors
    /// As for [`Self::admit`], and where no authority stands for it or one of its certificates has ended.
    pub fn admit_again(&self, chain: &[CertificateDer<'_>]) -> Result<Peer, String> {
        let (own, between) = chain.split_first().ok_or("it shows no certificate")?;
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        ParsedCertificate::try_from(own)
            .and_then(|own| {
                verify_server_cert_signed_by_trust_anchor(&own, &self.roots, between, UnixTime::now(), algorithms)
            })
            .map_err(|error| error.to_string())?;
        self.admit(chain)
    }
}

/// When the first certificate of a chain ends, in seconds since 1970.
pub(super) fn chain_end(chain: &[CertificateDer<'_>]) -> anyhow::Result<i64> {
    chain.iter().try_fold(i64::MAX, |end, certificate| Ok(end.min(expiry(certificate)?)))
}

/// Whether the list keeps a node or one of its certificates out.
pub(super) fn denied(deny: &Deny, node: NodeId, chain: &[CertificateDer<'_>]) -> Result<(), String> {
    if deny.nodes.contains(&node.number()) {
        return Err(format!("node {} is denied by this node's configuration", node.number()));
    }
    if deny.fingerprints.is_empty() {
        return Ok(());
    }
    let listed = |certificate: &CertificateDer<'_>| {
        let hash = digest::digest(&digest::SHA256, certificate);
        hash.as_ref().try_into().is_ok_and(|hash: [u8; 32]| deny.fingerprints.contains(&hash))
    };
    if chain.iter().any(listed) {
        return Err(format!("a certificate of node {} is denied by this node's configuration", node.number()));
    }
    Ok(())
}
