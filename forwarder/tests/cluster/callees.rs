//! Members that the links are told of, beside the seeds.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use forwarder::cluster::links::Event;
use forwarder_core::node::Command;

use super::daemon::{Authority, Daemon, Seen, free};
use super::names::id;

/// The higher id of two waits at least so long for the call of the lower one.
const SHORTEST_GRACE: Duration = Duration::from_millis(500);

fn ups(seen: &Seen) -> usize {
    seen.events.iter().filter(|event| matches!(event, Event::LinkUp { .. })).count()
}

fn call(daemon: &Daemon, peer: u16, address: std::net::SocketAddr) {
    daemon.commands.blocking_send(Command::Call { peer: id(peer), address }).unwrap();
}

#[test]
fn two_members_that_know_each_other_are_linked_once_and_by_the_lower_id() {
    let authority = Authority::new("edge");
    let judged = (0..20).any(|_| {
        let (a, b) = (free("127.0.0.1"), free("127.0.0.1"));
        let one = Daemon::start(&authority.identity(1, "edge"), a, &[]);
        let two = Daemon::start(&authority.identity(2, "edge"), b, &[]);
        let told = Instant::now();
        call(&two, 1, a);
        call(&one, 2, b);
        one.poll_until("node 2 comes up", |seen| seen.is_up(2));
        two.poll_until("node 1 comes up", |seen| seen.is_up(1));
        let (one, two) = (one.seen.lock().unwrap(), two.seen.lock().unwrap());
        assert_eq!((one.ended(), two.ended()), (0, 0), "{:?}, {:?}", one.events, two.events);
        // On a machine that stalls the higher id may have waited long enough to call as well.
        let in_time = told.elapsed() < SHORTEST_GRACE;
        if in_time {
            assert_eq!((ups(&one), ups(&two)), (1, 1), "{:?}, {:?}", one.events, two.events);
            assert_eq!((one.counters.links.calls, two.counters.links.calls), (1, 0));
        }
        in_time
    });
    assert!(judged, "each of twenty links took longer than the higher id waits");
}

#[test]
fn the_higher_id_calls_where_the_lower_one_does_not() {
    let authority = Authority::new("edge");
    let (a, b) = (free("127.0.0.1"), free("127.0.0.1"));
    let one = Daemon::start(&authority.identity(1, "edge"), a, &[]);
    let two = Daemon::start(&authority.identity(2, "edge"), b, &[]);
    call(&two, 1, a);
    one.poll_until("node 2 comes up", |seen| seen.is_up(2));
    assert_eq!(one.seen.lock().unwrap().counters.links.calls, 0);
    two.kill();
    one.poll_until("node 2 goes down", |seen| !seen.is_up(2));
    let two = Daemon::start(&authority.identity(2, "edge"), b, &[]);
    call(&two, 1, a);
    one.poll_until("node 2 comes up again", |seen| seen.is_up(2));
}

#[test]
fn a_member_is_called_until_it_is_forgotten() {
    let authority = Authority::new("edge");
    let silent = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket.local_addr().unwrap(), socket)
    };
    let heard = |socket: &UdpSocket| {
        let mut buffer = [0; 2048];
        std::iter::from_fn(|| socket.recv_from(&mut buffer).ok()).count()
    };
    let one = Daemon::start(&authority.identity(1, "edge"), free("127.0.0.1"), &[]);
    let ((b, second), (c, third)) = (silent(), silent());
    call(&one, 2, b);
    one.poll_until("it is called", |_| heard(&second) > 0);
    // Another address takes the place of the first.
    call(&one, 2, c);
    one.poll_until("it is called there", |_| heard(&third) > 0);
    heard(&second);
    one.commands.blocking_send(Command::Forget { peer: id(2) }).unwrap();
    call(&one, 3, b);
    one.poll_until("another member is called", |seen| seen.counters.links.calls >= 3 && heard(&second) > 0);
    heard(&third);
    let calls = one.seen.lock().unwrap().counters.links.calls;
    one.poll_until("that one is called again", |seen| seen.counters.links.calls > calls && heard(&second) > 0);
    assert_eq!(heard(&third), 0, "who is forgotten is called no more");
}

#[test]
fn another_node_at_a_members_address_is_refused_and_the_member_found_where_it_is() {
    let authority = Authority::new("edge");
    let (a, b, c) = (free("127.0.0.1"), free("127.0.0.1"), free("127.0.0.1"));
    let one = Daemon::start(&authority.identity(1, "edge"), a, &[]);
    let two = Daemon::start(&authority.identity(2, "edge"), b, &[]);
    let three = Daemon::start(&authority.identity(3, "edge"), c, &[]);
    call(&one, 2, c);
    one.poll_until("it is refused", |seen| seen.counters.links.impostors > 0 && !seen.refusals().is_empty());
    let expected = format!("refused {c}: node 2 was called, and its certificate is of node 3");
    assert_eq!(one.seen.lock().unwrap().refusals(), [&expected]);
    call(&one, 2, b);
    one.poll_until("node 2 is found", |seen| seen.is_up(2));
    assert!(!one.seen.lock().unwrap().is_up(3) && !three.seen.lock().unwrap().is_up(1));
    drop(two);
}

#[test]
fn a_wrong_address_of_one_node_ends_no_link_to_the_node_that_is_there() {
    let authority = Authority::new("edge");
    let (one, two) = Daemon::pair(&authority);
    // As a lie in gossip would have it: node 3 listens where node 2 does.
    call(&one, 3, two.address);
    one.poll_until("it is refused", |seen| seen.counters.links.impostors > 0);
    for key in 0..100 {
        two.claims.send(key).unwrap();
        one.poll_until("claims of node 2 go on arriving", |seen| seen.claims.contains_key(&key));
    }
    let (one, two) = (one.seen.lock().unwrap(), two.seen.lock().unwrap());
    assert_eq!((one.downs(), two.downs()), (0, 0), "{:?}, {:?}", one.events, two.events);
    assert_eq!(two.counters.links.links_up, 1);
}

#[test]
fn a_dozen_nodes_that_know_one_seed_are_all_linked() {
    let authority = Authority::new("edge");
    let seed = free("127.0.0.1");
    let start = |node| {
        let listen = if node == 1 { seed } else { free("127.0.0.1") };
        Daemon::start(&authority.identity(node, "edge"), listen, &[seed])
    };
    let nodes: Vec<_> = (1..=12).map(start).collect();
    for daemon in &nodes {
        daemon.poll_until("all others come up", |seen| seen.links.len() == 11 && seen.up.values().all(|up| *up));
    }
    // Of the 66 pairs, each but those of the seed has been made by a call of its lower id.
    let calls: u64 = nodes.iter().map(|daemon| daemon.seen.lock().unwrap().counters.links.calls).sum();
    assert!(calls < 2 * 66, "{calls} calls");
}
