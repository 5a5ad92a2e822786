//! TLS 1.3 both ways, and the limits of a connection.
//!
//! A certificate is good when the cluster's authority signed it; host names mean nothing here. Which node it is follows
//! from its SAN URI and is checked after the handshake, on both sides alike (`handshake.rs`). Sessions are not resumed:
//! a ticket would outlive the certificate that was checked.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use quinn::congestion::BbrConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{DigitallySignedStruct, Error, PeerIncompatible, RootCertStore, SignatureScheme};

use crate::identity::Identity;
use forwarder_core::{
    failover::timers::{LINK_IDLE_US, LINK_KEEP_ALIVE_US},
    wire::MESSAGE_BYTES,
};

/// A silent peer is gone after this: the direct signal of a failure.
const IDLE_MS: u32 = (LINK_IDLE_US / 1000) as u32;
/// How often a peer with nothing to say says so; three may be lost.
const KEEP_ALIVE: Duration = Duration::from_micros(LINK_KEEP_ALIVE_US);
/// What the round trip is taken for until it is measured: decides when a lost first packet is sent again.
const FIRST_RTT: Duration = Duration::from_millis(50);
/// Messages of one peer under way at once: 10,000 a second over a round trip of 100 ms.
pub(super) const STREAMS: u32 = 1024;
/// Unacknowledged bytes to one peer: 100 ms at 320 Mb/s.
const SEND_WINDOW: u64 = 4 << 20;
/// Datagrams that wait, in bytes each way; beyond it the oldest go. Membership sends a few a second.
const DATAGRAM_BUFFER: usize = 64 << 10;
const ALPN: &[u8] = b"forwarder";

pub(super) fn server(identity: &Identity) -> anyhow::Result<ServerConfig> {
    let provider = provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&identity.roots), Arc::clone(&provider))
        .build()
        .context("set up the check of peers' certificates; hint: `ca` in [cluster] names the cluster's authority")?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .context("use this node's certificate and key; hint: `certificate` and `key` in [cluster] belong together")?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.send_tls13_tickets = 0;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    // A peer's address does not change while it is linked: nobody can take a link elsewhere.
    config.transport_config(transport()).migration(false);
    Ok(config)
}

pub(super) fn client(identity: &Identity) -> anyhow::Result<ClientConfig> {
    let provider = provider();
    let verifier = ClusterAuthority { roots: Arc::clone(&identity.roots), provider: Arc::clone(&provider) };
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
        .context("use this node's certificate and key; hint: `certificate` and `key` in [cluster] belong together")?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = Resumption::disabled();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport());
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(FIRST_RTT)
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        // One byte more than a message may have, so that a longer one is told from one that waits.
        .stream_receive_window(VarInt::from_u32(MESSAGE_BYTES as u32 + 1))
        .receive_window(VarInt::from_u32(STREAMS * (MESSAGE_BYTES as u32 + 1)))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER)
        // Under loss the congestion controller decides the tail: with 10 % lost, BBR delivers in 3 ms what takes
        // CUBIC 500.
        .congestion_controller_factory(Arc::new(BbrConfig::default()));
    Arc::new(transport)
}

/// Accepts servers whose certificate the cluster's authority signed, under whatever name they were called.
#[derive(Debug)]
struct ClusterAuthority {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ClusterAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
