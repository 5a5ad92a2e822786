//! `GET /metrics` for Prometheus: HTTP by hyper, the text from a snapshot that the daemon's loop is asked for.
//!
//! It answers anyone who can reach the address, so the default is loopback; it can change nothing.

mod text;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::anyhow;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::timeout,
};

pub use self::text::render;
use crate::control::{self, Call};

/// Connections at a time: a few scrapers; more wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// How long a request's head may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest life of a connection: an idle one must not hold a place for ever.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
/// Pause after an accept that failed, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// The text format, version 0.0.4.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    task: JoinHandle<()>,
    address: SocketAddr,
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves metrics at `address` with snapshots from `handler`, until the returned server is dropped.
///
/// Call within a tokio runtime.
///
/// # Errors
/// The port is in use, or the address is not this host's.
pub fn serve(address: SocketAddr, handler: mpsc::Sender<Call>) -> anyhow::Result<Server> {
    let listener = listen(address).map_err(|error| {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "all other errors have one hint, and there are new ones with each Rust"
        )]
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "another program has this port: stop it, or choose another for `metrics`",
            io::ErrorKind::AddrNotAvailable => "this host does not have the address: correct `metrics`",
            io::ErrorKind::PermissionDenied => "choose a port above 1023 for `metrics`, or run as root",
            _ => "correct `metrics` in the configuration, or leave it out",
        };
        anyhow!("serve metrics at {address}: {error}; hint: {hint}")
    })?;
    let address = listener.local_addr()?;
    Ok(Server { task: tokio::spawn(accept(listener, handler)), address })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn accept(listener: TcpListener, handler: mpsc::Sender<Call>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let handler = handler.clone();
                tokio::spawn(async move {
                    connection(stream, handler).await;
                    drop(place);
                });
            }
            Err(error) => {
                log::warn!("accept on the metrics port: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, handler: mpsc::Sender<Call>) {
    let service = service_fn(|request| answer(request, &handler));
    let mut server = http1::Builder::new();
    let server = server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let served = timeout(CONNECTION_LIFE, server.serve_connection(TokioIo::new(stream), service)).await;
    if let Ok(Err(error)) = served {
        log::debug!("serve metrics: {error}");
    }
}

async fn answer(request: Request<Incoming>, handler: &mpsc::Sender<Call>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n".to_owned()));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    Ok(match control::call(handler, control::Request::Status).await {
        control::Response::Status(status) => plain(StatusCode::OK, render(&status)),
        control::Response::Error(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        control::Response::Owner(_) | control::Response::Drain(_) => {
            plain(StatusCode::INTERNAL_SERVER_ERROR, "no snapshot\n".to_owned())
        }
    })
}

fn plain(code: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(FORMAT));
    response
}

#[cfg(test)]
mod tests;
