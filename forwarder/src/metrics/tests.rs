use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::status::Status;

fn daemon() -> mpsc::Sender<Call> {
    let (sender, mut receiver) = mpsc::channel::<Call>(8);
    tokio::spawn(async move {
        while let Some((_, place)) = receiver.recv().await {
            let _ = place.send(control::Response::Status(Box::new(Status { node: 7, ..Status::default() })));
        }
    });
    sender
}

async fn request(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_scraper_gets_the_snapshot() {
    let server = serve("127.0.0.1:0".parse().unwrap(), daemon()).unwrap();
    let text = request(server.address(), "GET /metrics HTTP/1.1").await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(body.contains(r#"node="7""#), "{body}");
    assert!(body.ends_with('\n'), "the last line is whole");
}

#[tokio::test]
async fn anything_else_is_refused_with_a_word() {
    let server = serve("127.0.0.1:0".parse().unwrap(), daemon()).unwrap();
    let table = [
        ("GET / HTTP/1.1", "HTTP/1.1 404 ", "the metrics are at /metrics"),
        ("POST /metrics HTTP/1.1", "HTTP/1.1 405 ", "only GET and HEAD"),
        ("nonsense", "HTTP/1.1 400 ", ""),
    ];
    for (head, code, word) in table {
        let text = request(server.address(), head).await;
        assert!(text.starts_with(code) && text.contains(word), "{head}: {text}");
    }
}

#[tokio::test]
async fn a_stopping_daemon_is_unavailable_and_not_empty() {
    let (sender, receiver) = mpsc::channel(1);
    drop(receiver);
    let server = serve("127.0.0.1:0".parse().unwrap(), sender).unwrap();
    let text = request(server.address(), "GET /metrics HTTP/1.1").await;
    assert!(text.starts_with("HTTP/1.1 503 ") && text.ends_with("the daemon is stopping\n"), "{text}");
}

#[tokio::test]
async fn a_port_in_use_is_named_with_a_way_out() {
    let server = serve("127.0.0.1:0".parse().unwrap(), daemon()).unwrap();
    let error = serve(server.address(), daemon()).unwrap_err().to_string();
    let expected = format!(
        "serve metrics at {}: Address already in use (os error 98); \
         hint: another program has this port: stop it, or choose another for `metrics`",
        server.address()
    );
    assert_eq!(error, expected);
}

#[tokio::test]
async fn the_port_is_free_again_when_the_server_is_dropped() {
    let server = serve("127.0.0.1:0".parse().unwrap(), daemon()).unwrap();
    let address = server.address();
    drop(server);
    // The task lets go of its socket when the runtime next looks at it.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while let Err(error) = serve(address, daemon()) {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
        tokio::task::yield_now().await;
    }
}
