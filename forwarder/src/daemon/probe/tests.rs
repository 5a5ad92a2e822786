use std::{
    collections::BTreeSet,
    net::UdpSocket as Blocking,
    os::{fd::AsRawFd as _, linux::fs::MetadataExt as _},
};

use tokio::time::timeout;

use super::*;
use crate::config::{Affinity, Probe as Wanted};

const DEADLINE: Duration = Duration::from_secs(20);

fn service(address: SocketAddr) -> Service {
    let probe = Some(Wanted { interval_ms: 100, failures: 1 });
    Service { vip: address.ip(), port: address.port(), affinity: Affinity::Transaction, sources: Vec::new(), probe }
}

fn inode(socket: &Blocking) -> u64 {
    std::fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().st_ino()
}

/// Answers one request as a proxy would that knows no OPTIONS.
fn answer(socket: &Blocking) {
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
    let (_, head) = text.split_once("\r\n").unwrap();
    socket.send_to(format!("SIP/2.0 405 Method Not Allowed\r\n{head}").as_bytes(), from).unwrap();
}

/// All that is seen, in its order.
struct Log {
    seen: mpsc::Receiver<Seen>,
    all: Vec<Evidence>,
}

impl Log {
    /// Looks after a service behind one that is not to be looked after.
    fn of(watched: Service) -> Self {
        let (sender, seen) = mpsc::channel(64);
        spawn(&[Service { probe: None, ..watched.clone() }, watched], &sender).unwrap();
        Self { seen, all: Vec::new() }
    }

    /// Waits for what `wanted` takes, unless it has come already.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Evidence) -> bool) -> usize {
        loop {
            if let Some(place) = self.all.iter().position(&wanted) {
                return place;
            }
            let next = timeout(DEADLINE, self.seen.recv()).await;
            let (index, evidence) = next.unwrap_or_else(|_| panic!("{what}: {:?}", self.all)).unwrap();
            assert_eq!(index, 1);
            self.all.push(evidence);
        }
    }

    async fn until_sockets(&mut self, inodes: BTreeSet<u64>) -> usize {
        self.until("sockets", |evidence| *evidence == Evidence::Sockets(inodes.clone())).await
    }
}

async fn a_proxy_is_seen_at(vip: &str) {
    let Ok(proxy) = Blocking::bind((vip, 0)) else {
        // A host without IPv6 has nothing to look after there.
        assert!(vip.contains(':'));
        return;
    };
    let address = proxy.local_addr().unwrap();
    let mut log = Log::of(service(address));
    log.until_sockets([inode(&proxy)].into()).await;
    let answered = tokio::task::spawn_blocking(move || {
        answer(&proxy);
        proxy
    });
    log.until("an answer", |evidence| matches!(evidence, Evidence::Answered { .. })).await;
    let proxy = answered.await.unwrap();
    log.until("silence", |evidence| *evidence == Evidence::Silent).await;
    drop(proxy);
    let gone = log.until_sockets(BTreeSet::new()).await;
    let other = Blocking::bind(address).unwrap();
    assert!(log.until_sockets([inode(&other)].into()).await > gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_seen_to_listen_to_answer_to_be_silent_and_to_be_gone() {
    a_proxy_is_seen_at("127.0.0.1").await;
    a_proxy_is_seen_at("::1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vip_that_is_not_here_is_named() {
    let mut log = Log::of(service("192.0.2.10:5060".parse().unwrap()));
    let expected = Evidence::Failed("192.0.2.10 is no address of this host".to_owned());
    log.until("a failure", |evidence| *evidence == expected).await;
    log.until_sockets(BTreeSet::new()).await;
}
