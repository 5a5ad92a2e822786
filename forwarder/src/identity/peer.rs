//! The node id in a certificate: one SAN URI `forwarder://CLUSTER/node/ID`.

use std::{fmt, net::IpAddr};

use forwarder_common::ids::NodeId;
use rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use crate::foreign::Foreign;

const SCHEME: &str = "forwarder://";

/// Why a certificate names no node of this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerIdError {
    /// The certificate cannot be parsed.
    Malformed,
    /// It has no SAN URI of the forwarder's.
    Nameless,
    /// It has more than one SAN URI of the forwarder's.
    Ambiguous,
    /// Its SAN URI is not of the form `forwarder://CLUSTER/node/ID` with an ID of 1..=1023.
    BadName(Foreign),
    /// It names a node of another cluster: this one.
    OtherCluster(Foreign),
}

impl fmt::Display for PeerIdError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => out.write_str("it is no well-formed X.509 certificate"),
            Self::Nameless => out.write_str("it names no node (no SAN URI forwarder://…)"),
            Self::Ambiguous => out.write_str("it has several SAN URIs forwarder://…"),
            Self::BadName(uri) => write!(out, "its SAN URI \"{uri}\" does not name a node"),
            Self::OtherCluster(name) => write!(out, "it belongs to cluster \"{name}\""),
        }
    }
}

impl std::error::Error for PeerIdError {}

/// The SAN URI of node `id` of `cluster`.
pub(super) fn uri(cluster: &str, id: u16) -> String {
    format!("{SCHEME}{cluster}/node/{id}")
}

/// The node that a verified certificate of `cluster` names. Whoever calls this has checked the signature.
///
/// # Errors
/// The certificate names no node of `cluster`; any bytes are safe to ask about.
pub fn peer_id(certificate: &CertificateDer<'_>, cluster: &str) -> Result<NodeId, PeerIdError> {
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| PeerIdError::Malformed)?;
    // A certificate with the extension twice is refused here as well (RFC 5280 §4.2).
    let names = parsed.subject_alternative_name().map_err(|_| PeerIdError::Malformed)?;
    let names = names.map_or(&[][..], |extension| extension.value.general_names.as_slice());
    let mut uris = names.iter().filter_map(|name| {
        let GeneralName::URI(uri) = name else { return None };
        uri.starts_with(SCHEME).then_some(*uri)
    });
    let uri = uris.next().ok_or(PeerIdError::Nameless)?;
    if uris.next().is_some() {
        return Err(PeerIdError::Ambiguous);
    }
    let bad = || PeerIdError::BadName(Foreign::new(uri));
    let (name, id) = uri.strip_prefix(SCHEME).and_then(|rest| rest.split_once("/node/")).ok_or_else(bad)?;
    let node = id.parse().ok().and_then(NodeId::new).ok_or_else(bad)?;
    // One spelling for each node: no sign, no leading zero.
    if node.number().to_string() != id {
        return Err(bad());
    }
    if name == cluster { Ok(node) } else { Err(PeerIdError::OtherCluster(Foreign::new(name))) }
}

/// The addresses that a certificate names; none where it cannot be read. Any bytes are safe to ask about.
pub(super) fn addresses(certificate: &CertificateDer<'_>) -> Vec<IpAddr> {
    let Ok((_, parsed)) = parse_x509_certificate(certificate) else { return Vec::new() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    let address = |name: &GeneralName<'_>| {
        let GeneralName::IPAddress(bytes) = name else { return None };
        let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok()
    };
    names.value.general_names.iter().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(uris: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn one_uri_of_the_cluster_names_the_node() {
        let table: &[(&[&str], Result<u16, PeerIdError>)] = &[
            (&["forwarder://edge/node/1"], Ok(1)),
            (&["forwarder://edge/node/1023"], Ok(1023)),
            (&["spiffe://example.org/sip", "forwarder://edge/node/7"], Ok(7)),
            (&[], Err(PeerIdError::Nameless)),
            (&["spiffe://edge/node/1"], Err(PeerIdError::Nameless)),
            (&["forwarder://edge/node/1", "forwarder://edge/node/2"], Err(PeerIdError::Ambiguous)),
            (&["forwarder://core/node/1"], Err(PeerIdError::OtherCluster(Foreign::new("core")))),
        ];
        for (uris, expected) in table {
            let found = peer_id(&certificate(uris), "edge").map(NodeId::number);
            assert_eq!(found, *expected, "{uris:?}");
        }
        for id in ["0", "1024", "01", "+1", "-1", "1 ", "", "1/", "70000"] {
            let uri = format!("forwarder://edge/node/{id}");
            assert_eq!(peer_id(&certificate(&[&uri]), "edge"), Err(PeerIdError::BadName(Foreign::new(uri))));
        }
    }

    #[test]
    fn addresses_are_those_of_the_certificate_in_both_families() {
        let expected = ["10.9.1.2", "2001:db8::1"].map(|address| address.parse::<IpAddr>().unwrap());
        let mut params = CertificateParams::default();
        params.subject_alt_names = expected.iter().map(|address| SanType::IpAddress(*address)).collect();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        assert_eq!(addresses(&certificate), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe_to_ask_about(bytes in vec(any::<u8>(), 0..600)) {
            let certificate = CertificateDer::from(bytes);
            prop_assert_eq!(addresses(&certificate), Vec::<IpAddr>::new());
            prop_assert_eq!(peer_id(&certificate, "edge"), Err(PeerIdError::Malformed));
        }

        #[test]
        fn a_damaged_certificate_never_panics(
            changes in vec((any::<u16>(), any::<u8>()), 1..8), keep in 0_usize..1000
        ) {
            static WHOLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            let mut bytes = WHOLE.get_or_init(|| certificate(&["forwarder://edge/node/9"]).to_vec()).clone();
            for (offset, byte) in changes {
                let index = usize::from(offset) % bytes.len();
                bytes[index] = byte;
            }
            bytes.truncate(keep.max(1));
            let certificate = CertificateDer::from(bytes);
            let _ = (peer_id(&certificate, "edge"), addresses(&certificate));
        }
    }
}
