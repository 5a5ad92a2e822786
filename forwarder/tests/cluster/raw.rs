//! A peer by hand: a QUIC endpoint with a certificate that does what it is told, right or wrong.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use forwarder::identity::Identity;
use forwarder_common::ids::{Epoch, Epochs};
use forwarder_common::lifetime;
use forwarder_core::node::{Command, Node, NodeSettings, Now, Output};
use forwarder_core::wire::VERSION;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, ServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::names::{UNDERLAY, id};

pub(crate) struct Raw {
    pub(crate) runtime: Runtime,
    endpoint: Endpoint,
    client: ClientConfig,
    node: u16,
}

impl Raw {
    /// Shows the certificate of `identity` and speaks `alpn`, to those whom it calls and to those who call it.
    pub(crate) fn new(identity: &Identity, alpn: &[u8], listen: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .unwrap();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&identity.roots), Arc::clone(&provider));
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(identity.chain.clone(), identity.key.clone_key())
            .unwrap();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let endpoint = runtime.block_on(async { Endpoint::server(server, listen.parse().unwrap()).unwrap() });
        Self { runtime, endpoint, client, node: identity.node.number() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    pub(crate) fn connect(&self, to: SocketAddr) -> Result<Connection, ConnectionError> {
        let call = self.begin(to);
        self.runtime.block_on(call)
    }

    /// The next one who calls.
    pub(crate) fn answer(&self) -> Connection {
        let call = async { self.endpoint.accept().await.unwrap().await.unwrap() };
        self.runtime.block_on(async { timeout(Duration::from_secs(20), call).await.unwrap() })
    }

    /// Sends the first packets of a call, and its last ones when what this returns is dropped.
    pub(crate) fn begin(&self, to: SocketAddr) -> quinn::Connecting {
        let _inside = self.runtime.enter();
        self.endpoint.connect_with(self.client.clone(), to, "anybody").unwrap()
    }

    /// Connected and introduced, as an honest peer.
    pub(crate) fn link(&self, to: SocketAddr, peer: u16) -> Connection {
        let connection = self.connect(to).unwrap();
        self.introduce(&connection, peer);
        connection
    }

    /// Says what an honest peer says first.
    pub(crate) fn introduce(&self, connection: &Connection, peer: u16) {
        self.runtime.block_on(async {
            send(connection, &[VERSION]).await;
            send(connection, &self.hello(peer)).await;
        });
    }

    /// What an honest peer introduces itself to node `peer` with.
    pub(crate) fn hello(&self, peer: u16) -> Vec<u8> {
        self.hello_at(peer, UNDERLAY)
    }

    /// The same, as if it took tunnel packets at `underlay`.
    pub(crate) fn hello_at(&self, peer: u16, underlay: IpAddr) -> Vec<u8> {
        hello(self.node, self.address(), peer, underlay)
    }
}

pub(crate) async fn send(connection: &Connection, message: &[u8]) {
    try_send(connection, message).await.unwrap();
}

/// Sends a message on a stream of its own, where the connection stands.
pub(crate) async fn try_send(connection: &Connection, message: &[u8]) -> anyhow::Result<()> {
    let mut stream = connection.open_uni().await?;
    stream.write_all(message).await?;
    Ok(stream.finish()?)
}

const NOW: Now = Now { monotonic_us: 1, unix_us: 1 };

/// Node `node` with a link to `peer`.
fn core(node: u16, listen: SocketAddr, peer: u16, underlay: IpAddr) -> Node {
    let own = id(node);
    let mut core = Node::new(NodeSettings {
        node: own,
        epochs: Epochs::EMPTY.with(Epoch::new(0)),
        underlay,
        listen,
        lifetimes: lifetime::LONGEST,
        claims: 16,
        seed: 1,
        services: Vec::new(),
        must_equal: Vec::new(),
    });
    core.handle_link_up(id(peer), vec![UNDERLAY], NOW);
    core.handle_timeout(NOW);
    core
}

/// What node `node` says first to `peer`.
fn hello(node: u16, listen: SocketAddr, peer: u16, underlay: IpAddr) -> Vec<u8> {
    let mut core = core(node, listen, peer, underlay);
    let sent = std::iter::from_fn(|| core.poll_output())
        .find_map(|output| if let Output::Link(Command::Send { message, .. }) = output { Some(message) } else { None });
    sent.unwrap()
}

/// Whoever answers is fine.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
