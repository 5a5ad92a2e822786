//! Bad input at the links: strangers, floods, half of a handshake, old packets. The others go on undisturbed.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forwarder::cluster::links::{Event, QUEUE_BYTES};
use forwarder_core::failover::LinkEnd;
use forwarder_core::node::Command;
use forwarder_core::wire::{Gossip, VERSION};

use super::daemon::{Authority, Daemon, free};
use super::names::{UNDERLAY, id};
use super::raw::{Raw, send, try_send};

const ALPN: &[u8] = b"forwarder";

/// Node 1, and node 2 linked to it, whose claims must go on arriving.
fn pair(authority: &Authority) -> (Daemon, Daemon) {
    let (a, b) = (free("127.0.0.1"), free("127.0.0.2"));
    let one = Daemon::start(&authority.identity(1, "edge"), a, &[]);
    let two = Daemon::start(&authority.identity(2, "edge"), b, &[a]);
    one.poll_until("node 2 comes up", |seen| seen.is_up(2));
    two.poll_until("node 1 comes up", |seen| seen.is_up(1));
    (one, two)
}

#[track_caller]
fn undisturbed(one: &Daemon, two: &Daemon, key: u64) {
    two.claims.send(key).unwrap();
    one.poll_until("a claim of node 2 arrives", |seen| seen.claims.contains_key(&key));
    let seen = one.seen.lock().unwrap();
    let of_two = |event: &&Event| matches!(event, Event::LinkDown { peer, .. } if peer.number() == 2);
    assert_eq!(seen.events.iter().filter(of_two).count(), 0, "node 2 stays linked");
}

#[test]
fn another_protocol_on_the_link_is_refused_and_named() {
    let authority = Authority::new("edge");
    let (one, two) = pair(&authority);
    let raw = Raw::new(&authority.identity(3, "edge"), b"forwarder/9", "127.0.0.1:0");
    for round in 1..=3 {
        assert!(raw.connect(one.address).is_err());
        one.poll_until("it is counted", |seen| seen.counters.links.refused_protocols == round);
    }
    let seen = one.seen.lock().unwrap();
    let expected = format!(
        "refused {}: it speaks another protocol on its links; hint: run the same version of the forwarder on all nodes",
        raw.address()
    );
    assert_eq!(seen.refusals(), [&expected], "said once");
    assert_eq!(seen.counters.links.refused_certificates, 0);
    drop(seen);
    undisturbed(&one, &two, 1);
}

#[test]
fn a_message_of_another_version_than_was_agreed_on_ends_the_link_with_a_pause() {
    let authority = Authority::new("edge");
    let (one, two) = pair(&authority);
    let raw = Raw::new(&authority.identity(3, "edge"), ALPN, "127.0.0.1:0");
    let connection = raw.link(one.address, 1);
    one.poll_until("node 3 comes up", |seen| seen.is_up(3));
    raw.runtime.block_on(send(&connection, &[99; 40]));
    one.poll_until("its link is dropped", |seen| seen.counters.links.links_dropped == 1 && !seen.is_up(3));
    let reason = raw.runtime.block_on(connection.closed()).to_string();
    assert!(reason.contains("protocol version 99"), "{reason}");
    // For a while nothing is heard of it, however often it calls.
    let again = raw.connect(one.address).unwrap();
    let reason = raw.runtime.block_on(again.closed()).to_string();
    assert!(reason.contains("broke the protocol a little while ago"), "{reason}");
    undisturbed(&one, &two, 1);
}

#[test]
fn certificates_that_are_old_foreign_or_none_are_refused() {
    let (authority, foreign) = (Authority::new("edge"), Authority::new("edge"));
    let (one, two) = pair(&authority);
    let yesterday = time::OffsetDateTime::now_utc() - Duration::from_secs(86_400);
    let tomorrow = time::OffsetDateTime::now_utc() + Duration::from_secs(86_400);
    let bad = [
        authority.identity_until(3, "edge", yesterday),
        foreign.own(3, "edge"),
        authority.identity_until(3, "core", tomorrow),
    ];
    for (round, identity) in (1..).zip(&bad) {
        let raw = Raw::new(identity, ALPN, "127.0.0.1:0");
        // The client's part of a handshake is done before the server has looked at its certificate.
        if let Ok(connection) = raw.connect(one.address) {
            raw.runtime.block_on(connection.closed());
        }
        one.poll_until("it is counted", |seen| seen.counters.links.refused_certificates == round);
    }
    assert_eq!(one.seen.lock().unwrap().up.get(&3), None);
    undisturbed(&one, &two, 1);
}

#[test]
fn a_peer_takes_tunnel_packets_at_its_own_address_or_has_no_link() {
    let authority = Authority::new("edge");
    let (one, two) = pair(&authority);
    let tomorrow = time::OffsetDateTime::now_utc() + Duration::from_secs(86_400);
    // Its certificate names 127.0.0.1; another one names no address.
    let named = Raw::new(&authority.own(3, "edge"), ALPN, "127.0.0.9:0");
    let nameless = Raw::new(&authority.identity_until(4, "edge", tomorrow), ALPN, "127.0.0.9:0");
    let victim = "10.9.9.9".parse().unwrap();
    let say = |raw: &Raw, underlay| {
        let connection = raw.connect(one.address).unwrap();
        raw.runtime.block_on(async {
            // An error is a peer that is kept out.
            let _ = try_send(&connection, &[VERSION]).await;
            let _ = try_send(&connection, &raw.hello_at(1, underlay)).await;
        });
        connection
    };
    for (node, raw, underlay) in [(3, &named, victim), (4, &nameless, UNDERLAY)] {
        let connection = say(raw, underlay);
        let reason = raw.runtime.block_on(connection.closed()).to_string();
        let expected = format!(
            "its underlay address {underlay} is neither its link's (127.0.0.9) nor one that its certificate names; \
             hint: correct `underlay` on that node, or issue it a certificate with --address {underlay}"
        );
        assert!(reason.contains(&expected), "{reason}");
        one.poll_until("its link ends", |seen| seen.links.iter().all(|link| link.node != node));
        assert_eq!(one.seen.lock().unwrap().up.get(&node), None);
    }
    // After the pause that follows a breach.
    for (node, raw, underlay) in [(3, &named, UNDERLAY), (4, &nameless, "127.0.0.9".parse().unwrap())] {
        while !one.seen.lock().unwrap().is_up(node) {
            let connection = say(raw, underlay);
            one.poll_until("it comes up", |seen| seen.is_up(node) || connection.close_reason().is_some());
        }
    }
    undisturbed(&one, &two, 1);
}

#[test]
fn what_peers_and_strangers_write_is_short_and_harmless_wherever_it_is_shown() {
    const EVIL: &str = "\x1b[2J\x1b]0;title\x07\r\n  2     10.9.9.9  up     1s   0.1 ms\u{9b}31m\u{202e}";
    let authority = Authority::new("edge");
    let (one, two) = pair(&authority);
    let long = EVIL.repeat(10);
    // A linked peer closes with it, and so does whoever answers a call of node 1.
    let raw = Raw::new(&authority.identity(3, "edge"), ALPN, "127.0.0.1:0");
    let connection = raw.link(one.address, 1);
    one.poll_until("node 3 comes up", |seen| seen.is_up(3));
    connection.close(7_u32.into(), long.as_bytes());
    one.poll_until("its link ends", |seen| seen.downs() == 1);
    let (reason, _) = one.seen.lock().unwrap().end().unwrap();
    // A certificate of this cluster's authority names another cluster, and a node, in such words.
    let tomorrow = time::OffsetDateTime::now_utc() + Duration::from_secs(86_400);
    for (round, cluster) in [(1, "co\x1b[2J\nre\x7f".to_owned()), (2, "x\n/y\x1b".repeat(100))] {
        let raw =
            Raw::new(&authority.identity_until(4, &cluster, tomorrow), ALPN, &format!("127.0.0.{}:0", 10 + round));
        if let Ok(connection) = raw.connect(one.address) {
            let reason = raw.runtime.block_on(connection.closed()).to_string();
            assert!(!reason.contains(char::is_control), "{reason:?}");
        }
        one.poll_until("it is refused", |seen| seen.counters.links.refused_certificates == round);
    }
    let seen = one.seen.lock().unwrap();
    let said: Vec<&str> = seen.refusals().into_iter().map(String::as_str).chain([reason.as_str()]).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    for text in said {
        assert!(!text.contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
        assert!(text.contains("\\u001b") && text.chars().count() < 2500, "{text}");
    }
    drop(seen);
    undisturbed(&one, &two, 1);
}

#[test]
fn a_flood_of_streams_without_messages_ends_the_link_and_no_other() {
    let authority = Authority::new("edge");
    let (one, two) = pair(&authority);
    let raw = Raw::new(&authority.identity(3, "edge"), ALPN, "127.0.0.1:0");
    let connection = raw.link(one.address, 1);
    one.poll_until("node 3 comes up", |seen| seen.is_up(3));
    raw.runtime.block_on(async {
        // Ended empty, which is no message.
        while let Ok(mut stream) = connection.open_uni().await {
            if stream.finish().is_err() {
                break;
            }
        }
    });
    one.poll_until("its link is dropped", |seen| seen.counters.links.links_dropped == 1 && !seen.is_up(3));
    let reason = connection.close_reason().unwrap().to_string();
    assert!(reason.contains("dropped: a flood of messages or claims"), "{reason}");
    undisturbed(&one, &two, 1);
}

#[test]
fn a_flood_of_datagrams_loses_datagrams_and_no_link() {
    let authority = Authority::new("edge");
    let (one, two) = pair(&authority);
    let raw = Raw::new(&authority.identity(3, "edge"), ALPN, "127.0.0.1:0");
    let connection = raw.link(one.address, 1);
    one.poll_until("node 3 comes up", |seen| seen.is_up(3));
    let gossip = Gossip::Linked(vec![(id(2), two.address)]).encode();
    one.poll_until("datagrams are refused", |seen| {
        raw.runtime.block_on(async {
            for _ in 0..1000 {
                connection.send_datagram_wait(gossip.clone().into()).await.unwrap();
            }
        });
        seen.counters.core.datagrams_refused > 1000
    });
    undisturbed(&one, &two, 1);
    let seen = one.seen.lock().unwrap();
    assert!(seen.is_up(3) && connection.close_reason().is_none());
    assert_eq!((seen.counters.links.links_dropped, seen.counters.core.protocol_errors), (0, 0));
}

/// The first packets of so many calls, made for a listener that never answers.
fn first_flights(caller: &Raw, calls: usize) -> Vec<Vec<u8>> {
    let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut buffer = [0; 2048];
    let flights = (0..calls).map(|_| {
        let call = caller.begin(listener.local_addr().unwrap());
        let length = listener.recv(&mut buffer).unwrap();
        drop(call);
        // What the end of the call has to say.
        listener.set_nonblocking(true).unwrap();
        let first = buffer.get(..length).unwrap().to_vec();
        while listener.recv(&mut buffer).is_ok() {}
        listener.set_nonblocking(false).unwrap();
        first
    });
    flights.filter(|first| first.len() >= 1200).collect()
}

#[test]
fn half_open_handshakes_keep_nobody_else_out() {
    let authority = Authority::new("edge");
    let (one, two) = pair(&authority);
    // From many ports, and never gone on with.
    let caller = Raw::new(&authority.identity(3, "edge"), ALPN, "127.0.0.1:0");
    let flights = first_flights(&caller, 200);
    assert!(flights.len() > 100, "{}", flights.len());
    let sockets: Vec<_> = flights.iter().map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for (socket, first) in sockets.iter().zip(&flights) {
        socket.send_to(first, one.address).unwrap();
    }
    let three = Daemon::start(&authority.identity(3, "edge"), free("127.0.0.3"), &[one.address]);
    one.poll_until("an honest node comes up meanwhile", |seen| seen.is_up(3));
    undisturbed(&one, &two, 1);
    drop(three);
}

#[test]
fn a_stranger_signs_nobody_up_before_its_address_is_proven() {
    let authority = Authority::new("edge");
    let (one, two) = pair(&authority);
    let caller = Raw::new(&authority.identity(3, "edge"), ALPN, "127.0.0.1:0");
    let flights = first_flights(&caller, 20);
    let socket = UdpSocket::bind("127.0.0.5:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut buffer = [0; 2048];
    for first in &flights {
        socket.send_to(first, one.address).unwrap();
    }
    let mut answers = 0;
    while let Ok(length) = socket.recv(&mut buffer) {
        // A Retry (RFC 9000 §17.2.5) and nothing else: no certificate, no signature, and less than was sent.
        assert_eq!(buffer.first().map(|byte| byte >> 4), Some(0b1111), "a long header of type 3");
        assert!(length < 200, "{length}");
        answers += 1;
    }
    assert!(answers > 10, "{answers}");
    undisturbed(&one, &two, 1);
}

#[test]
fn a_flood_of_first_packets_is_bounded_and_an_honest_node_comes_up_beside_it() {
    let authority = Authority::new("edge");
    let (one, two) = pair(&authority);
    let caller = Raw::new(&authority.identity(3, "edge"), ALPN, "127.0.0.1:0");
    let flights = first_flights(&caller, 100);
    let over = Arc::new(AtomicBool::new(false));
    let (end, to) = (Arc::clone(&over), one.address);
    let flood = std::thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.5:0").unwrap();
        let mut sent = 0_u64;
        while !end.load(Ordering::Acquire) {
            for first in &flights {
                sent += u64::from(socket.send_to(first, to).is_ok());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        sent
    });
    one.poll_until("more come than are asked to prove their address", |seen| {
        seen.counters.links.refused_handshakes > 5000
    });
    // It calls and is called: one of the two goes through, its seeds are called from the first moment.
    let three = Daemon::start(&authority.identity(3, "edge"), free("127.0.0.3"), &[one.address]);
    one.commands.blocking_send(Command::Call { peer: id(3), address: three.address }).unwrap();
    one.poll_until("an honest node comes up meanwhile", |seen| seen.is_up(3));
    undisturbed(&one, &two, 1);
    over.store(true, Ordering::Release);
    assert!(flood.join().unwrap() > 5000);
}

#[test]
fn packets_that_come_twice_or_much_later_change_nothing() {
    let authority = Authority::new("edge");
    let (a, b) = (free("127.0.0.1"), free("127.0.0.1"));
    let one = Daemon::start(&authority.identity(1, "edge"), a, &[]);
    let relay = Relay::start(a);
    let two = Daemon::start(&authority.identity(2, "edge"), b, &[relay.address]);
    one.poll_until("node 2 comes up", |seen| seen.is_up(2));
    for key in 0..50 {
        two.claims.send(key).unwrap();
        one.poll_until("the claim arrives", |seen| seen.claims.contains_key(&key));
    }
    let sent = two.seen.lock().unwrap().counters.core.batches_sent;
    relay.replay.store(true, Ordering::Release);
    one.poll_until("old packets have come again", |_| !relay.replay.load(Ordering::Acquire));
    undisturbed(&one, &two, 99);
    let seen = one.seen.lock().unwrap();
    assert!(seen.counters.core.batches_received <= sent + 1, "{:?}", seen.counters);
    assert_eq!((seen.counters.core.protocol_errors, seen.ended()), (0, 0));
}

#[test]
fn a_link_that_ends_before_its_hello_is_no_breach() {
    let authority = Authority::new("edge");
    let (one, two) = pair(&authority);
    let raw = Raw::new(&authority.identity(3, "edge"), ALPN, "127.0.0.1:0");
    let connection = raw.connect(one.address).unwrap();
    raw.runtime.block_on(async {
        send(&connection, &[VERSION]).await;
        send(&connection, &[]).await;
    });
    one.poll_until("the link of node 3 ends", |seen| seen.downs() == 1);
    let seen = one.seen.lock().unwrap();
    assert_eq!(seen.end(), Some(("no hello".to_owned(), LinkEnd::Silent)));
    assert_eq!((seen.counters.links.links_dropped, seen.counters.core.protocol_errors), (0, 0));
    drop(seen);
    drop(two);
}

#[test]
fn a_link_that_ends_leaves_no_message_that_looks_whole_and_is_not() {
    let authority = Authority::new("edge");
    let (one, two) = pair(&authority);
    let raw = Raw::new(&authority.identity(3, "edge"), ALPN, "127.0.0.1:0");
    let first = raw.link(one.address, 1);
    one.poll_until("node 3 comes up", |seen| seen.is_up(3));
    // It takes the place of the first one, on which a stream waits for its message.
    let second = raw.link(one.address, 1);
    let lengths = raw.runtime.block_on(async {
        let mut lengths = Vec::new();
        while let Ok(mut stream) = first.accept_uni().await {
            lengths.extend(stream.read_to_end(1 << 20).await.map(|message| message.len()));
        }
        lengths
    });
    assert!(!lengths.is_empty() && !lengths.contains(&0), "{lengths:?}");
    undisturbed(&one, &two, 5);
    drop(second);
}

#[test]
fn a_peer_that_has_forgotten_a_link_is_well_and_one_that_is_silent_may_not_be() {
    let authority = Authority::new("edge");
    let (a, b) = (free("127.0.0.1"), free("127.0.0.1"));
    let one = Daemon::start_aloof(&authority.identity(1, "edge"), a, &[]);
    let relay = Relay::start(a);
    let two = Daemon::start(&authority.identity(2, "edge"), b, &[relay.address]);
    // On a machine that stalls for a second both ends fall silent: then once more.
    for round in 1..=10 {
        one.poll_until("node 2 comes up", |seen| seen.is_up(2));
        two.poll_until("node 1 comes up", |seen| seen.is_up(1));
        relay.mute.store(true, Ordering::Release);
        one.poll_until("node 2 goes down", |seen| !seen.is_up(2));
        relay.mute.store(false, Ordering::Release);
        two.poll_until("the link of node 2 ends", |seen| seen.downs() >= round);
        let (reason, end) = two.seen.lock().unwrap().last_end().unwrap();
        assert_eq!(end == LinkEnd::Well, reason == "reset by peer", "{reason}");
        if end == LinkEnd::Well {
            return;
        }
    }
    panic!("node 2 was never told that its link is forgotten");
}

/// Passes packets on, each of them twice, and all that it has seen once more when told to.
struct Relay {
    address: SocketAddr,
    replay: Arc<AtomicBool>,
    /// Nothing goes to the server.
    mute: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Relay {
    fn start(server: SocketAddr) -> Self {
        let (front, back) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        for socket in [&front, &back] {
            socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        }
        let address = front.local_addr().unwrap();
        let [replay, mute, end] = std::array::from_fn(|_| Arc::new(AtomicBool::new(false)));
        let (again, is_mute, over) = (Arc::clone(&replay), Arc::clone(&mute), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            let (mut client, mut seen, mut buffer) = (None, Vec::new(), [0; 65_536]);
            while !over.load(Ordering::Acquire) {
                if let Ok((length, from)) = front.recv_from(&mut buffer) {
                    client = Some(from);
                    let packet = buffer.get(..length).unwrap();
                    if is_mute.load(Ordering::Acquire) {
                        continue;
                    }
                    seen.push(packet.to_vec());
                    (0..2).for_each(|_| drop(back.send_to(packet, server)));
                }
                if let (Ok((length, _)), Some(client)) = (back.recv_from(&mut buffer), client) {
                    let packet = buffer.get(..length).unwrap();
                    (0..2).for_each(|_| drop(front.send_to(packet, client)));
                }
                if again.load(Ordering::Acquire) {
                    seen.iter().for_each(|packet| drop(back.send_to(packet, server)));
                    again.store(false, Ordering::Release);
                }
            }
        });
        Self { address, replay, mute, end, thread: Some(thread) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_peer_that_reads_nothing_costs_the_others_nothing_and_no_memory_without_end() {
    let authority = Authority::new("edge");
    let (one, two) = pair(&authority);
    let raw = Raw::new(&authority.identity(3, "edge"), ALPN, "127.0.0.1:0");
    // It keeps the connection alive, reads no stream, and so takes no more than its first window.
    let connection = raw.link(one.address, 1);
    one.poll_until("node 3 comes up", |seen| seen.is_up(3));
    let mut key = 0;
    one.poll_until("messages to it are dropped", |seen| {
        // No faster than they are served.
        let lot = if two.seen.lock().unwrap().claims.len() as u64 == key { 3000 } else { 0 };
        (0..lot).for_each(|_| {
            key += 1;
            one.claims.send(key).unwrap();
        });
        seen.links.iter().any(|link| link.node == 3 && link.dropped_messages > 0)
    });
    two.poll_until("node 2 has all of them", |seen| seen.claims.len() as u64 == key);
    let seen = one.seen.lock().unwrap();
    let of = |node| seen.links.iter().find(|link| link.node == node).unwrap();
    assert_eq!(of(2).dropped_messages, 0);
    assert!(of(3).queued_bytes <= 2 * QUEUE_BYTES, "{:?}", of(3));
    drop(seen);
    drop(connection);
}
