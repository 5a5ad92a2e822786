//! The control socket: one JSON line asks, one JSON line answers, over a Unix socket of the daemon's.
//!
//! The server knows nothing of the answers: each request goes to the daemon's loop through a channel with a place for
//! the answer. The client is blocking, bounded in time, and says what to do when nobody answers.

use std::{
    fs, io,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream as BlockingStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use crate::status::Status;

/// Longest request in bytes: a Call-ID and a branch of the largest datagram, escaped, fit.
const MAX_REQUEST: u64 = 512 * 1024;
/// Longest answer in bytes that a client takes: a status with a thousand peers is about 300 kB.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;
/// How long a connection may take to ask, and the daemon to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A question to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Request {
    /// A snapshot of everything.
    Status,
    /// Who owns a transaction.
    Owner {
        /// Its Call-ID.
        call_id: String,
        /// Its CSeq number.
        cseq: u32,
        /// The top Via branch of a reply, if it is asked for as one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        branch: Option<String>,
    },
    /// Take the node out of service.
    Drain,
    /// Take it back into service.
    Undrain,
    /// How far the drain has come.
    Progress,
}

/// The daemon's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Owner`].
    Owner(Owner),
    /// To [`Request::Drain`], [`Request::Undrain`] and [`Request::Progress`].
    Drain(Drain),
    /// The request cannot be answered, and why.
    Error(String),
}

/// Who owns a transaction, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The request key `L`, 16 hex digits.
    pub request_key: String,
    /// The reply key `X`, 16 hex digits; `None` where no branch was given.
    pub reply_key: Option<String>,
    /// The owner's node id; `None` where no claim is effective.
    pub owner: Option<u16>,
    /// The key by which it was found: `request` or `reply`.
    pub by: Option<String>,
    /// Whether the owner is this node.
    pub mine: bool,
    /// Milliseconds until the claim ends.
    pub expires_in_ms: Option<u64>,
    /// `live`, `none`, or why the claim that is there is ineffective: `expired`, `down` (its owner), `void` (this
    /// node's, of an epoch that is not live), `down or void` (a peer's of such an epoch: a peer that is down has no
    /// live ones).
    pub state: String,
}

/// How far a drain has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Whether the node is being taken out of service.
    pub draining: bool,
    /// Whether that has changed by the request.
    pub changed: bool,
    /// Seconds since it began.
    pub since_s: u64,
    /// Peers that take new transactions meanwhile.
    pub takers: u64,
    /// The node's transactions from before that a message could still need.
    pub transactions: u64,
    /// Milliseconds until the last of them ends at the latest; 0 when there are none.
    pub last_ends_in_ms: u64,
    /// The node's transactions that have begun since, as long as it has their claims.
    pub transactions_since: u64,
}

/// A request with the place for its answer.
pub type Call = (Request, oneshot::Sender<Response>);

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    task: JoinHandle<()>,
    path: PathBuf,
    /// Device and inode of the socket: a file that took its place is not ours to remove.
    made: Option<(u64, u64)>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        if self.made.is_some() && identify(&self.path) == self.made {
            // The daemon ends; a file that stays is recognised as stale by the next one.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Answers on the socket at `path` with what `handler` says, until the returned server is dropped.
///
/// The socket's folder is made if it is missing; the socket is for its owner alone. Call within a tokio runtime.
///
/// # Errors
/// Another daemon answers there, a file that is no socket is in the way, or the path cannot be used.
pub fn serve(path: &Path, handler: mpsc::Sender<Call>) -> anyhow::Result<Server> {
    let listener = listen(path).with_context(|| format!("open control socket {}", path.display()))?;
    let task = tokio::spawn(accept(listener, handler));
    Ok(Server { task, path: path.to_owned(), made: identify(path) })
}

fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(hinted("run as root, or correct `control` in the configuration"))?;
    }
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            make_way(path)?;
            UnixListener::bind(path)
        }
        done => done,
    };
    let listener = listener.map_err(hinted("run as root, or correct `control` in the configuration"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).context("close it to others")?;
    Ok(listener)
}

fn hinted(hint: &'static str) -> impl Fn(io::Error) -> anyhow::Error {
    move |error| anyhow!("{error}; hint: {hint}")
}

/// Removes a socket that nobody answers on.
fn make_way(path: &Path) -> anyhow::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        bail!("a file that is no socket is there; hint: remove it, or correct `control` in the configuration");
    }
    match BlockingStream::connect(path) {
        Ok(_) => bail!("another forwarder answers on it; hint: stop that one, or give this one a `control` of its own"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).context("remove it"),
        Err(error) => Err(anyhow!("{error}; hint: remove it if no forwarder runs")),
    }
}

fn identify(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|about| (about.dev(), about.ino()))
}

async fn accept(listener: UnixListener, handler: mpsc::Sender<Call>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(timeout(2 * TIMEOUT, answer(stream, handler.clone())))),
            Err(error) => {
                log::warn!("accept on the control socket: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, handler: mpsc::Sender<Call>) {
    let (reader, mut writer) = stream.split();
    let mut line = Vec::new();
    let mut reader = tokio::io::BufReader::new(reader.take(MAX_REQUEST));
    let response = match timeout(TIMEOUT, reader.read_until(b'\n', &mut line)).await {
        Ok(Ok(0)) | Ok(Err(_)) => return,
        Err(_) => Response::Error("the request did not end in time".to_owned()),
        Ok(Ok(_)) if !line.ends_with(b"\n") => {
            Response::Error(format!("a request is one line of at most {MAX_REQUEST} bytes"))
        }
        Ok(Ok(_)) => match serde_json::from_slice(&line) {
            Ok(request) => call(&handler, request).await,
            Err(error) => Response::Error(format!("the request is not understood: {error}")),
        },
    };
    let mut text = serde_json::to_vec(&response).unwrap_or_default();
    text.push(b'\n');
    // A client that has gone needs no answer.
    let _ = writer.write_all(&text).await;
    let _ = writer.shutdown().await;
}

/// Puts a request to the daemon's loop.
pub async fn call(handler: &mpsc::Sender<Call>, request: Request) -> Response {
    let (sender, receiver) = oneshot::channel();
    let asked = async {
        handler.send((request, sender)).await.ok()?;
        receiver.await.ok()
    };
    match timeout(TIMEOUT, asked).await {
        Ok(Some(response)) => response,
        Ok(None) => Response::Error("the daemon is stopping".to_owned()),
        Err(_) => Response::Error("the daemon is too busy to answer".to_owned()),
    }
}

/// Asks the daemon whose control socket is at `path`.
///
/// # Errors
/// No daemon, no permission, no answer in time, an answer of another version, or the daemon's refusal.
pub fn ask(path: &Path, request: &Request) -> anyhow::Result<Response> {
    let name = path.display();
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other errors have one hint, and there are new ones with each Rust"
    )]
    let stream = BlockingStream::connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => anyhow!(
            "no forwarder answers on {name}; hint: start one with `forwarder run --config FILE`, \
             or name its socket with --control PATH"
        ),
        io::ErrorKind::PermissionDenied => anyhow!("{name}: {error}; hint: run as the daemon's user, that is, as root"),
        _ => anyhow!("{name}: {error}; hint: name the daemon's socket with --control PATH"),
    })?;
    let exchange = || -> io::Result<Vec<u8>> {
        // The server answers within its own two waits.
        stream.set_read_timeout(Some(3 * TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut text = serde_json::to_vec(request)?;
        text.push(b'\n');
        (&stream).write_all(&text)?;
        let mut line = Vec::new();
        BufReader::new((&stream).take(MAX_ANSWER)).read_until(b'\n', &mut line)?;
        Ok(line)
    };
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other errors have one hint, and there are new ones with each Rust"
    )]
    let line = exchange().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            anyhow!("the forwarder on {name} does not answer; hint: see its log, or restart it")
        }
        _ => anyhow!("talk to the forwarder on {name}: {error}; hint: see its log"),
    })?;
    match serde_json::from_slice(&line) {
        Ok(Response::Error(refusal)) => bail!("the forwarder on {name} says: {refusal}"),
        Ok(response) => Ok(response),
        Err(_) if line.is_empty() => bail!("the forwarder on {name} hung up; hint: see its log"),
        Err(error) => bail!("the answer of {name} is not understood ({error}); hint: use the forwarder's own version"),
    }
}

#[cfg(test)]
mod tests;
