use super::*;

/// A daemon's loop that answers from its own head.
fn daemon() -> mpsc::Sender<Call> {
    let (sender, mut receiver) = mpsc::channel::<Call>(8);
    tokio::spawn(async move {
        while let Some((request, place)) = receiver.recv().await {
            let response = match request {
                Request::Status => Response::Status(Box::new(Status { node: 7, ..Status::default() })),
                Request::Owner { call_id, cseq, branch } => {
                    let by = Some(format!("{call_id} {cseq} {branch:?}"));
                    Response::Owner(Owner { by, owner: Some(2), ..Owner::default() })
                }
                Request::Drain => Response::Drain(Drain { draining: true, changed: true, ..Drain::default() }),
                Request::Undrain | Request::Progress => Response::Error("not today".to_owned()),
            };
            let _ = place.send(response);
        }
    });
    sender
}

async fn asked(path: &Path, request: Request) -> anyhow::Result<Response> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || ask(&path, &request)).await.unwrap()
}

/// Sends raw bytes and reads the answer to its end.
async fn raw(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    // A server that has seen enough hangs up: the rest then has nowhere to go.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    text
}

#[tokio::test]
async fn a_request_gets_its_answer_and_the_socket_goes_with_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/for/control.sock");
    let server = serve(&path, daemon()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let Response::Status(status) = asked(&path, Request::Status).await.unwrap() else { panic!("no status") };
    assert_eq!(status.node, 7);
    let request = Request::Owner { call_id: "a\"b@c".into(), cseq: 9, branch: Some("z9hG4bK\u{e9}".into()) };
    let Response::Owner(owner) = asked(&path, request).await.unwrap() else { panic!("no owner") };
    assert_eq!(owner.by.unwrap(), "a\"b@c 9 Some(\"z9hG4bK\u{e9}\")");
    drop(server);
    assert!(!path.exists());
    let error = asked(&path, Request::Status).await.unwrap_err().to_string();
    assert!(error.starts_with("no forwarder answers on ") && error.contains("; hint: start one with"), "{error}");
}

#[tokio::test]
async fn the_lines_on_the_wire_are_these() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let _server = serve(&path, daemon()).unwrap();
    let answer = raw(&path, b"{\"command\":\"owner\",\"call_id\":\"x\",\"cseq\":1}\n").await;
    assert_eq!(
        answer,
        "{\"owner\":{\"request_key\":\"\",\"reply_key\":null,\"owner\":2,\"by\":\"x 1 None\",\"mine\":false,\
         \"expires_in_ms\":null,\"state\":\"\"}}\n"
    );
    assert_eq!(
        raw(&path, b"{\"command\":\"drain\"}\n").await,
        "{\"drain\":{\"draining\":true,\"changed\":true,\"since_s\":0,\"takers\":0,\"transactions\":0,\
         \"last_ends_in_ms\":0,\"transactions_since\":0}}\n"
    );
    for bytes in [&b"nonsense\n"[..], b"{\"command\":\"reboot\"}\n", b"\xff\xfe\n", b"{\"command\":\"status\"}"] {
        let answer = raw(&path, bytes).await;
        assert!(answer.starts_with("{\"error\":\""), "{bytes:?}: {answer}");
    }
    assert_eq!(raw(&path, b"").await, "");
}

#[tokio::test]
async fn an_endless_request_is_cut_off_and_the_next_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let _server = serve(&path, daemon()).unwrap();
    let bytes = vec![b'x'; usize::try_from(MAX_REQUEST).unwrap()];
    let answer = raw(&path, &bytes).await;
    assert!(answer.contains("a request is one line of at most"), "{answer}");
    assert!(matches!(asked(&path, Request::Status).await, Ok(Response::Status(_))));
}

#[tokio::test]
async fn a_live_daemon_keeps_its_socket_and_a_dead_ones_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let first = serve(&path, daemon()).unwrap();
    let error = format!("{:#}", serve(&path, daemon()).unwrap_err());
    assert!(error.contains("another forwarder answers on it; hint: "), "{error}");
    assert!(matches!(asked(&path, Request::Status).await, Ok(Response::Status(_))), "the first one still answers");
    drop(first);
    // What kill -9 leaves: a socket without a listener.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _second = serve(&path, daemon()).unwrap();
    assert!(matches!(asked(&path, Request::Status).await, Ok(Response::Status(_))));
}

#[tokio::test]
async fn a_file_in_the_way_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    fs::write(&path, "precious").unwrap();
    let error = format!("{:#}", serve(&path, daemon()).unwrap_err());
    assert!(error.contains("a file that is no socket is there"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_stopping_daemon_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let (sender, receiver) = mpsc::channel(1);
    drop(receiver);
    let _server = serve(&path, sender).unwrap();
    let error = asked(&path, Request::Status).await.unwrap_err().to_string();
    assert!(error.ends_with("says: the daemon is stopping"), "{error}");
}
