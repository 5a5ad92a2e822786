//! Any bytes at the control socket, from a client and from a daemon: each connection gets one line of JSON, a request
//! means the same once it is written again, and no answer drives the terminal that it is printed to.

use std::{
    cell::OnceCell,
    env, fs,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use forwarder::{
    control::{Call, Drain, Owner, Request, Response, Server, serve},
    foreign,
    status::{self, Status},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    runtime::{Builder, Runtime},
    sync::mpsc,
    time::timeout,
};

/// Longer than any answer takes on a machine that is very busy.
const LONG: Duration = Duration::from_secs(60);

/// Sends `data` as a client does that has said all it wants, and reads it as an answer.
///
/// # Panics
/// There is no answer, or not one line of it; or it reads otherwise when it is written again.
pub fn control(data: &[u8]) {
    thread_local!(static DAEMON: OnceCell<Daemon> = const { OnceCell::new() });
    DAEMON.with(|daemon| daemon.get_or_init(Daemon::new).is_asked(data));
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let again = serde_json::to_vec(&request).expect("JSON");
        assert_eq!(serde_json::from_slice::<Request>(&again).expect("a request"), request);
    }
    if let Ok(Response::Status(status)) = serde_json::from_slice(data) {
        let text = status::render(&status);
        assert!(text.lines().all(|line| foreign::escaped(line) == line), "{text:?}");
    }
}

/// A server with a daemon's loop behind it that knows nothing.
struct Daemon {
    runtime: Runtime,
    path: PathBuf,
    _server: Server,
}

impl Daemon {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let folder = env::temp_dir().join(format!("forwarder-fuzz-{}", process::id()));
        let path = folder.join(format!("{:?}.sock", std::thread::current().id()));
        let server = runtime.block_on(async { serve(&path, loops()) }).expect("a socket in the temporary folder");
        Self { runtime, path, _server: server }
    }

    fn is_asked(&self, data: &[u8]) {
        let answer = self.runtime.block_on(async { timeout(LONG, exchange(&self.path, data)).await });
        let answer = answer.expect("an answer in time");
        if data.is_empty() {
            return assert!(answer.is_empty(), "an answer to nothing");
        }
        let line = answer.strip_suffix(b"\n").expect("a line");
        assert!(!line.contains(&b'\n'), "more than one line");
        let response: Response = serde_json::from_slice(line).expect("an answer");
        let request = data
            .iter()
            .position(|byte| *byte == b'\n')
            .and_then(|end| serde_json::from_slice::<Request>(&data[..end]).ok());
        match (request, response) {
            (Some(Request::Status), Response::Status(_)) => {}
            (Some(Request::Owner { call_id, .. }), Response::Owner(owner)) => assert_eq!(owner.request_key, call_id),
            (Some(Request::Drain | Request::Undrain | Request::Progress), Response::Drain(_)) => {}
            (None, Response::Error(why)) => assert!(!why.is_empty()),
            (request, response) => panic!("{request:?} is answered by {response:?}"),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The server removes its socket; a folder that others use stays.
        let _ = fs::remove_file(&self.path);
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

/// Sends what there is, says that this was all, and reads to the end.
async fn exchange(path: &Path, data: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(path).await.expect("the server");
    // A server that has seen enough hangs up: the rest then has nowhere to go.
    let _ = stream.write_all(data).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

/// The loop that answers.
fn loops() -> mpsc::Sender<Call> {
    let (sender, mut receiver) = mpsc::channel::<Call>(8);
    tokio::spawn(async move {
        while let Some((request, place)) = receiver.recv().await {
            let response = match request {
                Request::Status => Response::Status(Box::<Status>::default()),
                Request::Owner { call_id, .. } => Response::Owner(Owner { request_key: call_id, ..Owner::default() }),
                Request::Drain | Request::Undrain | Request::Progress => Response::Drain(Drain::default()),
            };
            // The client may have gone.
            let _ = place.send(response);
        }
    });
    sender
}
