//! This node's identity, and who is let in by it.
//!
//! `load` refuses at the start what a peer would refuse later, with a sentence that names the file. Let in is a chain
//! that TLS has verified, of a node of this cluster, not denied, not at its end.

use std::{net::IpAddr, path::Path, sync::Arc};

use anyhow::{Context as _, anyhow, bail};
use forwarder_common::ids::NodeId;
use ring::digest;
use rustls::{
    CertificateError, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{ParsedCertificate, WebPkiClientVerifier},
    sign::CertifiedKey,
};

use super::{
    dates::{SECONDS_A_DAY, chain_end, ending, expiry, rfc3339},
    files::{certificates, read},
    peer::{self, PeerIdError, peer_id},
};
use crate::config::{Config, Deny};

/// What a peer's chain says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its node id.
    pub node: NodeId,
    /// When the first certificate of its chain ends, in seconds since 1970.
    pub expires_s: i64,
    /// The addresses that its certificate names.
    pub addresses: Vec<IpAddr>,
}

/// This node's certificate and key, checked against its configuration and its authorities.
#[derive(Debug)]
pub struct Identity {
    /// The id in the certificate, the same as in the configuration.
    pub node: NodeId,
    /// The cluster's name in the certificate, the same as in the configuration.
    pub cluster: String,
    /// The certificate and those between it and the authority, its own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the certificate.
    pub key: PrivateKeyDer<'static>,
    /// The authorities that sign this cluster's certificates.
    pub roots: Arc<RootCertStore>,
    /// When the certificate, or one of those between it and the authority, ends, in seconds since 1970.
    pub expires_s: i64,
    /// When the first of the authorities' certificates ends, in seconds since 1970.
    pub roots_expire_s: i64,
    /// Who is kept out whatever its certificate says.
    pub deny: Deny,
}

impl Identity {
    /// When the certificate ends, such as `2028-11-24T22:00:00Z`.
    #[must_use]
    pub fn expires(&self) -> String {
        rfc3339(self.expires_s)
    }

    /// Whole days until the certificate ends, negative once it has, at `now_s` seconds since 1970.
    #[must_use]
    pub const fn days_left(&self, now_s: i64) -> i64 {
        self.expires_s.saturating_sub(now_s).div_euclid(SECONDS_A_DAY)
    }

    /// For `status` and the log at `now_s` seconds since 1970: certificates of this node that have ended or will within
    /// [`super::WARN_DAYS`].
    #[must_use]
    pub fn warnings(&self, now_s: i64) -> Vec<String> {
        let own = ("this node's certificate", "put a new one in its place, it is taken up without a restart");
        let root = ("a certificate in `ca`", "add the next authority's to the file, and then issue new certificates");
        let ends = [(own, self.expires_s), (root, self.roots_expire_s)];
        ends.into_iter().filter_map(|((what, hint), end_s)| ending(what, hint, end_s, now_s)).collect()
    }

    /// The node of a chain whose signatures, times and purposes TLS has verified.
    ///
    /// # Errors
    /// Why it is kept out, in a few words: no node of this cluster, or denied. Any bytes are safe to ask about.
    pub fn admit(&self, chain: &[CertificateDer<'_>]) -> Result<Peer, String> {
        let own = chain.first().ok_or("it shows no certificate")?;
        let node = peer_id(own, &self.cluster).map_err(|error| error.to_string())?;
        denied(&self.deny, node, chain)?;
        let expires_s = chain_end(chain).map_err(|error| error.to_string())?;
        Ok(Peer { node, expires_s, addresses: peer::addresses(own) })
    }

    /// Whether a chain that an earlier identity admitted is good still: for links that stand when the authorities or
    /// the list of the denied have changed.
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

/// Reads and checks the files that `[cluster]` names.
///
/// # Errors
/// One sentence that names the file, what is wrong (missing, unreadable, of another authority, expired, of another
/// node or cluster, key of another certificate) and a hint.
pub fn load(config: &Config) -> anyhow::Result<Identity> {
    let cluster = &config.cluster;
    let (roots, roots_expire_s) = roots(&cluster.ca)?;
    let roots = Arc::new(roots);
    let chain = certificates(&cluster.certificate, "certificate")?;
    let own = chain.first().context("read no certificate")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let name = cluster.certificate.display();
    let checking = || format!("check certificate {name}");
    verify(&chain, &roots, &provider, &cluster.ca).with_context(checking)?;
    let node = peer_id(own, &cluster.name).map_err(|error| named(config, &error)).with_context(checking)?;
    if node != config.node {
        let (found, wanted) = (node.number(), config.node.number());
        bail!(
            "check certificate {name}: it is node {found}'s, and the configuration says node {wanted}; \
             hint: correct `node` or name node {wanted}'s certificate"
        );
    }
    let key = private_key(&cluster.key, &chain, &provider, &cluster.certificate)?;
    let expires_s = chain_end(&chain).with_context(checking)?;
    let deny = cluster.deny.clone();
    denied(&deny, node, &chain).map_err(|error| anyhow!("{error}; hint: correct `deny`")).with_context(checking)?;
    Ok(Identity { node, cluster: cluster.name.clone(), chain, key, roots, expires_s, roots_expire_s, deny })
}

fn roots(path: &Path) -> anyhow::Result<(RootCertStore, i64)> {
    let mut roots = RootCertStore::empty();
    let list = certificates(path, "ca")?;
    let expires_s = chain_end(&list).with_context(|| format!("read ca {}", path.display()))?;
    for certificate in list {
        roots.add(certificate).map_err(|error| {
            anyhow!("read ca {}: a certificate in it is of no use ({error}); hint: make a new one", path.display())
        })?;
    }
    Ok((roots, expires_s))
}

/// Verifies the chain in both roles: a node dials some peers and is dialled by others.
fn verify(
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    ca: &Path,
) -> anyhow::Result<()> {
    let Some((own, between)) = chain.split_first() else { return Ok(()) };
    let algorithms = provider.signature_verification_algorithms.all;
    let now = UnixTime::now();
    let verdict = ParsedCertificate::try_from(own).and_then(|parsed| {
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, between, now, algorithms)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider)).build();
        let verifier = verifier.map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_client_cert(own, between, now).map(|_| ())
    });
    let ca = ca.display();
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all others are said in rustls's words, and there are new ones with each version"
    )]
    let sentence = match verdict {
        Ok(()) => return Ok(()),
        Err(rustls::Error::InvalidCertificate(reason)) => match reason {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                format!("it is not signed by {ca}; hint: issue it with that authority's key, or correct `ca`")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                let end = own_end(own);
                format!("it, or one it depends on, has expired (its own end: {end}); hint: issue a new one")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "it is not valid yet; hint: set this host's clock".to_owned()
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "it must be allowed for both TLS server and client; hint: issue it with both extended key usages"
                    .to_owned()
            }
            other => format!("{other}; hint: issue a new one"),
        },
        Err(other) => format!("{other}; hint: issue a new one"),
    };
    bail!(sentence)
}

fn own_end(certificate: &CertificateDer<'_>) -> String {
    expiry(certificate).map_or_else(|error| error.to_string(), rfc3339)
}

fn named(config: &Config, error: &PeerIdError) -> anyhow::Error {
    let (cluster, node) = (&config.cluster.name, config.node.number());
    let hint = match error {
        PeerIdError::OtherCluster(_) => {
            "correct `name` in [cluster], or issue it with this cluster's authority".to_owned()
        }
        PeerIdError::Malformed | PeerIdError::Nameless | PeerIdError::Ambiguous | PeerIdError::BadName(_) => {
            format!("issue it with the SAN URI {}", peer::uri(cluster, node))
        }
    };
    anyhow!("{error}; hint: {hint}")
}

fn private_key(
    path: &Path,
    chain: &[CertificateDer<'static>],
    provider: &CryptoProvider,
    certificate: &Path,
) -> anyhow::Result<PrivateKeyDer<'static>> {
    let (name, text) = (path.display(), read(path, "key")?);
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        anyhow!("read key {name}: it holds no private key in PEM ({error}); hint: convert it to PEM")
    })?;
    let signer = provider.key_provider.load_private_key(key.clone_key()).map_err(|error| {
        anyhow!("read key {name}: it is of no use ({error}); hint: take an ECDSA P-256, Ed25519 or RSA key")
    })?;
    if CertifiedKey::new(chain.to_vec(), signer).keys_match().is_err() {
        let certificate = certificate.display();
        bail!("check key {name}: it is not the key of {certificate}; hint: name the two files of one node");
    }
    Ok(key)
}

/// Whether the list keeps a node or one of its certificates out.
fn denied(deny: &Deny, node: NodeId, chain: &[CertificateDer<'_>]) -> Result<(), String> {
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
