//! A node with a good certificate and no daemon: QUIC by hand, to each honest node and for each that calls.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use forwarder::identity::{self, Identity};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, timeout};

use super::script::{Act, Said, Script};

/// How long it goes on with one sort of things.
const ACT: Duration = Duration::from_millis(1500);
/// What it says of a sort in a second.
const RATES: [u32; 3] = [100, 1000, 5000];
/// How often what is due is said.
const STEP: Duration = Duration::from_millis(5);
/// Longest wait for a connection, and for a stream on which the other end reads nothing.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause where it is not let in.
const PAUSE: Duration = Duration::from_millis(200);

/// What it did.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Connections on which it has introduced itself.
    pub(super) links: AtomicU64,
    /// Calls that came to nothing, or that were closed before it could introduce itself.
    pub(super) refused: AtomicU64,
    /// By [`Act::ALL`], what was said.
    pub(super) said: [AtomicU64; Act::ALL.len()],
    /// Why links have ended, each sentence once.
    pub(super) reasons: Mutex<Vec<String>>,
}

/// The peer; dropping it ends it without a farewell.
#[derive(Debug)]
pub(super) struct Peer {
    /// None once it has ended.
    runtime: Option<Runtime>,
    pub(super) done: Arc<Done>,
}

impl Peer {
    /// The node of this configuration file, which calls the others at its seeds' addresses, on a socket that was bound
    /// for it.
    pub(super) fn start(config: &Path, socket: UdpSocket, acts: &[Act], seed: u64) -> Result<Self> {
        let config = forwarder::config::load(config)?;
        let identity = identity::load(&config)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = client(&identity)?;
        let inside = runtime.enter();
        let endpoint =
            Endpoint::new(EndpointConfig::default(), Some(server(&identity)?), socket, Arc::new(TokioRuntime))
                .context("open an endpoint of QUIC")?;
        drop(inside);
        let (done, acts) = (Arc::new(Done::default()), Arc::<[Act]>::from(acts));
        let script = |seed| Script::new(seed, config.underlay, config.cluster.listen);
        for (victim, to) in (0..).zip(config.cluster.seeds.clone()) {
            let (endpoint, client, script) = (endpoint.clone(), client.clone(), script(seed + victim));
            let run = Run { done: Arc::clone(&done), acts: Arc::clone(&acts), turn: victim as usize };
            runtime.spawn(run.call(endpoint, client, to, script));
        }
        let (listening, run) = (script(seed), Arc::clone(&done));
        runtime.spawn(async move {
            // Whoever calls is let in, and hears as little as it has to.
            while let Some(incoming) = endpoint.accept().await {
                let Ok(connecting) = incoming.accept() else { continue };
                let (introduction, done) = (listening.introduction(), Arc::clone(&run));
                tokio::spawn(async move {
                    let Ok(connection) = connecting.await else { return };
                    introduce(&connection, &introduction).await;
                    done.links.fetch_add(1, Ordering::Relaxed);
                    connection.closed().await;
                });
            }
        });
        Ok(Self { runtime: Some(runtime), done })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What it does to one node.
struct Run {
    done: Arc<Done>,
    acts: Arc<[Act]>,
    /// The act that is next.
    turn: usize,
}

impl Run {
    async fn call(mut self, endpoint: Endpoint, client: ClientConfig, to: SocketAddr, mut script: Script) {
        loop {
            let connecting = endpoint.connect_with(client.clone(), to, "anybody");
            let connected = async { anyhow::Ok(timeout(PATIENCE, connecting?).await??) }.await;
            let Ok(connection) = connected else {
                self.done.refused.fetch_add(1, Ordering::Relaxed);
                sleep(PAUSE).await;
                continue;
            };
            introduce(&connection, &script.introduction()).await;
            self.done.links.fetch_add(1, Ordering::Relaxed);
            while connection.close_reason().is_none() {
                let act = self.acts.get(self.turn % self.acts.len()).copied().unwrap_or(Act::Hellos);
                self.turn += 1;
                self.act(&connection, &mut script, act).await;
                if act == Act::Reconnect {
                    connection.close(0_u32.into(), b"\x1b[31mon we go\nnode 1: link down: nothing");
                }
            }
            self.note(&connection);
            sleep(PAUSE).await;
        }
    }

    /// Goes on with one sort of things for a while, at a rate.
    async fn act(&self, connection: &Connection, script: &mut Script, act: Act) {
        let (begun, mut said) = (Instant::now(), 0);
        let rate = RATES.get(self.turn % RATES.len()).copied().unwrap_or(100);
        while begun.elapsed() < ACT && connection.close_reason().is_none() {
            let due = (begun.elapsed().as_millis() * u128::from(rate) / 1000) as u64;
            while said < due {
                said += 1;
                if let Some(count) = self.done.said.get(act as usize) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                // A node that reads nothing any more will close.
                let spoken = timeout(PATIENCE, say(connection, script.say(act))).await;
                if !matches!(spoken, Ok(Ok(()))) || act == Act::Reconnect {
                    return;
                }
            }
            sleep(STEP).await;
        }
    }

    fn note(&self, connection: &Connection) {
        let reason = connection.close_reason().map(|reason| reason.to_string()).unwrap_or_default();
        if let Ok(mut reasons) = self.done.reasons.lock()
            && !reasons.contains(&reason)
        {
            reasons.push(reason);
        }
    }
}

async fn introduce(connection: &Connection, introduction: &[Vec<u8>; 2]) {
    for message in introduction {
        // An error is a link that has ended.
        let _ = say(connection, Said::Stream(message.clone())).await;
    }
}

async fn say(connection: &Connection, said: Said) -> Result<()> {
    match said {
        Said::Stream(bytes) => {
            let mut stream = connection.open_uni().await?;
            stream.write_all(&bytes).await?;
            stream.finish()?;
        }
        Said::Unfinished(bytes) => {
            let mut stream = connection.open_uni().await?;
            stream.write_all(&bytes).await?;
            // Dropped, it would end.
            std::mem::forget(stream);
        }
        Said::Datagram(bytes) => connection.send_datagram(bytes.into())?,
    }
    Ok(())
}

fn client(identity: &Identity) -> Result<ClientConfig> {
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
    tls.alpn_protocols = vec![b"forwarder".to_vec()];
    Ok(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)))
}

fn server(identity: &Identity) -> Result<ServerConfig> {
    let provider = Arc::new(default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&identity.roots), Arc::clone(&provider)).build()?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
    tls.alpn_protocols = vec![b"forwarder".to_vec()];
    Ok(ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?)))
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
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
