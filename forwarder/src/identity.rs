//! Who this node is: its certificate, its key, the authorities of its cluster, and the cluster's secret.
//!
//! A node's id comes from its certificate and from nothing that it says: a SAN URI `forwarder://CLUSTER/node/ID`.
//! `load` refuses at the start what a peer would refuse later, with a sentence that names the file.

mod admit;
mod issue;
mod peer;
mod secrets;
mod watch;

use std::{fs, path::Path, sync::Arc};

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
use x509_parser::parse_x509_certificate;

pub use self::{
    admit::Peer,
    issue::{CA_DAYS, NODE_DAYS, init, issue, rotate},
    peer::{PeerIdError, peer_id},
    secrets::{Secrets, secrets},
    watch::{Change, Watch},
};
use crate::config::{Config, Deny};

const SECONDS_A_DAY: i64 = 86_400;
/// Days before its end from which a certificate is warned of.
pub const WARN_DAYS: i64 = 30;

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
    /// [`WARN_DAYS`].
    #[must_use]
    pub fn warnings(&self, now_s: i64) -> Vec<String> {
        let own = ("this node's certificate", "put a new one in its place, it is taken up without a restart");
        let root = ("a certificate in `ca`", "add the next authority's to the file, and then issue new certificates");
        let ends = [(own, self.expires_s), (root, self.roots_expire_s)];
        ends.into_iter().filter_map(|((what, hint), end_s)| ending(what, hint, end_s, now_s)).collect()
    }
}

/// A sentence about a certificate that has ended or will within [`WARN_DAYS`]; times in seconds since 1970.
#[must_use]
pub fn ending(what: &str, hint: &str, end_s: i64, now_s: i64) -> Option<String> {
    let days = end_s.saturating_sub(now_s).div_euclid(SECONDS_A_DAY);
    let when = match days {
        ..0 => "has ended".to_owned(),
        0 => "ends within a day".to_owned(),
        1 => "ends in a day".to_owned(),
        _ => format!("ends in {days} days"),
    };
    (days < WARN_DAYS).then(|| format!("{what} {when} ({}); hint: {hint}", rfc3339(end_s)))
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
    let expires_s = admit::chain_end(&chain).with_context(checking)?;
    let deny = cluster.deny.clone();
    admit::denied(&deny, node, &chain)
        .map_err(|error| anyhow!("{error}; hint: correct `deny`"))
        .with_context(checking)?;
    Ok(Identity { node, cluster: cluster.name.clone(), chain, key, roots, expires_s, roots_expire_s, deny })
}

/// The 24-bit Geneve network identifier of a cluster: the first 24 bits of SHA-256 of its name.
#[must_use]
pub fn vni(cluster: &str) -> u32 {
    let hash = digest::digest(&digest::SHA256, cluster.as_bytes());
    hash.as_ref().iter().take(3).fold(0, |vni, byte| (vni << 8) | u32::from(*byte))
}

fn roots(path: &Path) -> anyhow::Result<(RootCertStore, i64)> {
    let mut roots = RootCertStore::empty();
    let list = certificates(path, "ca")?;
    let expires_s = admit::chain_end(&list).with_context(|| format!("read ca {}", path.display()))?;
    for certificate in list {
        roots.add(certificate).map_err(|error| {
            anyhow!("read ca {}: a certificate in it is of no use ({error}); hint: make a new one", path.display())
        })?;
    }
    Ok((roots, expires_s))
}

fn certificates(path: &Path, key: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let (name, text) = (path.display(), read(path, key)?);
    let list = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let list =
        list.map_err(|error| anyhow!("read {key} {name}: it is no PEM file ({error}); hint: convert it to PEM"))?;
    if list.is_empty() {
        bail!("read {key} {name}: there is no certificate in it; hint: `{key}` in [cluster] names a PEM file with one");
    }
    Ok(list)
}

/// The bytes of the file that `key` in `[cluster]` names.
fn read(path: &Path, key: &str) -> anyhow::Result<Vec<u8>> {
    fs::read(path).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "make it with `forwarder cluster init` and `forwarder cluster issue`",
            std::io::ErrorKind::PermissionDenied => "run as its owner or as root",
            _ => "see what the path leads to",
        };
        anyhow!("read {key} {}: {error}; hint: {hint}, or correct `{key}` in [cluster]", path.display())
    })
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
        _ => format!("issue it with the SAN URI {}", peer::uri(cluster, node)),
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

fn expiry(certificate: &CertificateDer<'_>) -> anyhow::Result<i64> {
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|error| anyhow!("it cannot be parsed ({error})"))?;
    Ok(parsed.validity().not_after.timestamp())
}

/// A time in seconds since 1970 as RFC 3339 writes it, in UTC.
#[must_use]
pub fn rfc3339(seconds: i64) -> String {
    let Ok(time) = time::OffsetDateTime::from_unix_timestamp(seconds) else { return format!("@{seconds}") };
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second) = time.to_hms();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
