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

#[tokio::test]
async fn connections_that_ask_for_nothing_keep_nobody_out() {
    let server = serve("127.0.0.1:0".parse().unwrap(), daemon()).unwrap();
    let mut idle = Vec::new();
    for number in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        if number % 2 == 1 {
            // One that was of use once, and is kept open.
            stream.write_all(b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        }
        idle.push(stream);
    }
    // Long before any of them ends by itself.
    let answer = timeout(HEAD_TIMEOUT / 2, request(server.address(), "GET /metrics HTTP/1.1")).await;
    assert!(answer.expect("it waits for idle ones").starts_with("HTTP/1.1 200 OK\r\n"));
    // The one that has been idle for longest has given way, and no other.
    assert_eq!(idle[0].read(&mut [0; 64]).await.unwrap_or(0), 0);
    for stream in &mut idle[1..] {
        assert!(timeout(Duration::from_millis(1), stream.read(&mut [0; 64])).await.is_err(), "it has ended, too");
    }
}

#[tokio::test]
async fn connections_that_wait_for_an_answer_give_way_to_nobody() {
    let (sender, mut asked) = mpsc::channel::<Call>(CONNECTIONS);
    let server = serve("127.0.0.1:0".parse().unwrap(), sender).unwrap();
    let address = server.address();
    let ask = || tokio::spawn(async move { request(address, "GET /metrics HTTP/1.1").await });
    let (mut waiting, mut places) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        waiting.push(ask());
        places.push(asked.recv().await.unwrap().1);
    }
    waiting.push(ask());
    assert!(timeout(2 * GRACE, asked.recv()).await.is_err(), "the last one has to wait for a place");
    let answer = || control::Response::Status(Box::default());
    for place in places {
        assert!(place.send(answer()).is_ok(), "somebody waits for each answer");
    }
    assert!(asked.recv().await.unwrap().1.send(answer()).is_ok());
    for request in waiting {
        assert!(request.await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    }
}
