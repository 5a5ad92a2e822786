//! `GET /metrics` for Prometheus: HTTP by hyper, the text from a snapshot that the daemon's loop is asked for.
//!
//! It answers anyone who can reach the address, so the default is loopback; it can change nothing.

mod text;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

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
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

pub use self::text::render;
use crate::control::{self, Call};

/// Connections at a time: a few scrapers. One that is idle gives way to a new one.
const CONNECTIONS: usize = 16;
/// How long a request's head may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is not idle before: its first request may be on its way.
const GRACE: Duration = Duration::from_millis(200);
/// Longest life of a connection.
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
    let mut connections = Connections(Vec::new());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.make_room().await;
                connections.0.push(Connection::serve(stream, handler.clone()));
            }
            Err(error) => {
                log::warn!("accept on the metrics port: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Those that are open. Dropping them ends them.
struct Connections(Vec<Connection>);

impl Connections {
    /// Waits until there is a place for one more: the one that has been idle for longest gives way, and where none is
    /// idle the first whose answer is out.
    async fn make_room(&mut self) {
        loop {
            self.0.retain(|connection| !connection.task.is_finished());
            if self.0.len() < CONNECTIONS {
                return;
            }
            let idle =
                self.0.iter().enumerate().filter_map(|(place, connection)| Some((connection.idle_since()?, place)));
            match idle.min().filter(|(since, _)| since.elapsed() >= GRACE) {
                Some((_, place)) => drop(self.0.swap_remove(place)),
                // An answer takes as long as the daemon's loop, and that only so long.
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// One of them.
struct Connection {
    task: JoinHandle<()>,
    /// Since when it has asked for nothing; `None` while it waits for an answer.
    idle_since: Arc<Mutex<Option<Instant>>>,
}

impl Connection {
    fn serve(stream: TcpStream, handler: mpsc::Sender<Call>) -> Self {
        let idle_since = Arc::new(Mutex::new(Some(Instant::now())));
        let task = tokio::spawn(connection(stream, handler, Arc::clone(&idle_since)));
        Self { task, idle_since }
    }

    fn idle_since(&self) -> Option<Instant> {
        *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(stream: TcpStream, handler: mpsc::Sender<Call>, idle_since: Arc<Mutex<Option<Instant>>>) {
    let set_idle = |since| *idle_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    let service = service_fn(async |request| {
        set_idle(None);
        let response = answer(request, &handler).await;
        set_idle(Some(Instant::now()));
        response
    });
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
