//! Two versions of the links' protocol side by side: what a node says to one that speaks another version, and what a
//! later daemon of the same version may say.
//!
//! [`SideBySide`] is for every later version as well: a daemon of this version beside a peer by hand of whatever other,
//! whichever of the two calls.

use std::time::Duration;

use forwarder::cluster::links::Event;
use forwarder_core::failover::LinkEnd;
use forwarder_core::wire::VERSION;
use quinn::{Connection, ConnectionError, VarInt};

use super::daemon::{Authority, Daemon, free};
use super::raw::{Raw, send, try_send};

/// QUIC's application error code of a close for another version.
const CLOSED_FOR_VERSION: u32 = 6;
/// The offset of a hello's count of fields.
const FIELDS: usize = 43;

#[derive(Clone, Copy, Debug)]
enum Caller {
    Daemon,
    Peer,
}

/// Node 1, a daemon of this version that is linked to node 2, and node 3 by hand, connected to node 1 without a word.
struct SideBySide {
    one: Daemon,
    two: Daemon,
    peer: Raw,
    connection: Connection,
    authority: Authority,
}

impl SideBySide {
    fn new(caller: Caller) -> Self {
        let authority = Authority::new("edge");
        let peer = Raw::new(&authority.identity(3, "edge"), b"forwarder", "127.0.0.1:0");
        let seeds = match caller {
            Caller::Daemon => vec![peer.address()],
            Caller::Peer => Vec::new(),
        };
        let one = Daemon::start(&authority.identity(1, "edge"), free("127.0.0.1"), &seeds);
        let connection = match caller {
            Caller::Daemon => peer.answer(),
            Caller::Peer => peer.connect(one.address).unwrap(),
        };
        let two = Daemon::start(&authority.identity(2, "edge"), free("127.0.0.1"), &[one.address]);
        Self { one, two, peer, connection, authority }
    }

    /// Sends these; the daemon may have closed the connection at the first.
    fn say(&self, messages: &[&[u8]]) {
        self.peer.runtime.block_on(async {
            for message in messages {
                let _ = try_send(&self.connection, message).await;
            }
        });
    }

    /// With what code and words the daemon has closed the connection.
    fn closed(&self) -> (u32, String) {
        let closed = self.peer.runtime.block_on(self.connection.closed());
        let ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
        (close.error_code.into_inner() as u32, String::from_utf8(close.reason.to_vec()).unwrap())
    }

    /// Node 1 says of node 3 that it speaks `theirs`, counts that apart, and goes on with node 2.
    #[track_caller]
    fn is_refused(&self, theirs: &str) {
        let expected = format!("node 3 speaks {theirs}; hint: run the same version of the forwarder on both");
        self.one.poll_until("it is refused", |seen| !seen.other_versions().is_empty());
        self.one.poll_until("it is counted", |seen| seen.counters.links.refused_versions == 1);
        self.one.poll_until("node 2 comes up", |seen| seen.is_up(2));
        self.two.claims.send(7).unwrap();
        self.one.poll_until("a claim of node 2 arrives", |seen| seen.claims.contains_key(&7));
        let seen = self.one.seen.lock().unwrap();
        assert_eq!(seen.other_versions(), [(3, expected.as_str())]);
        let counters = seen.counters;
        assert_eq!((counters.links.links_dropped, counters.core.protocol_errors, counters.links.links_up), (0, 0, 1));
        assert!(!seen.up.contains_key(&3));
    }
}

fn version(theirs: u8) -> String {
    format!("version {theirs} of the links' protocol, this node version {VERSION}")
}

#[test]
fn a_peer_of_another_version_is_refused_with_a_word_whoever_calls() {
    for caller in [Caller::Daemon, Caller::Peer] {
        for theirs in [VERSION - 1, VERSION + 1] {
            let nodes = SideBySide::new(caller);
            let mut hello = nodes.peer.hello(1);
            *hello.first_mut().unwrap() = theirs;
            nodes.say(&[&[theirs], &hello]);
            assert_eq!(nodes.closed(), (CLOSED_FOR_VERSION, format!("version {VERSION}")), "{caller:?} {theirs}");
            nodes.is_refused(&version(theirs));
        }
    }
}

#[test]
fn a_node_that_is_refused_for_its_version_says_so_as_well() {
    let words = [
        ("version 200", version(200)),
        ("go away", { format!("another version of the links' protocol than this node, which speaks {VERSION}") }),
    ];
    for caller in [Caller::Daemon, Caller::Peer] {
        for (said, expected) in &words {
            let nodes = SideBySide::new(caller);
            // Then the handshake is done at both ends.
            nodes.peer.runtime.block_on(nodes.connection.accept_uni()).unwrap();
            nodes.connection.close(VarInt::from_u32(CLOSED_FOR_VERSION), said.as_bytes());
            nodes.is_refused(expected);
        }
    }
}

#[test]
fn a_peer_of_another_version_is_called_again_after_a_while_and_linked_when_the_versions_agree() {
    let nodes = SideBySide::new(Caller::Daemon);
    nodes.say(&[&[VERSION + 1]]);
    nodes.is_refused(&version(VERSION + 1));
    let paused = std::time::Instant::now();
    let connection = nodes.peer.answer();
    assert!(paused.elapsed() > Duration::from_secs(5), "not as one that does not answer: {:?}", paused.elapsed());
    nodes.peer.introduce(&connection, 1);
    nodes.one.poll_until("node 3 comes up", |seen| seen.is_up(3));
}

#[test]
fn a_peer_of_another_version_is_linked_at_once_when_it_is_upgraded_and_calls() {
    let nodes = SideBySide::new(Caller::Peer);
    nodes.say(&[&[VERSION - 1]]);
    nodes.is_refused(&version(VERSION - 1));
    let upgraded = Daemon::start(&nodes.authority.identity(3, "edge"), free("127.0.0.1"), &[nodes.one.address]);
    let took = nodes.one.poll_until("node 3 comes up", |seen| seen.is_up(3));
    assert!(took < Duration::from_secs(5), "{took:?}");
    upgraded.claims.send(8).unwrap();
    nodes.one.poll_until("a claim of node 3 arrives", |seen| seen.claims.contains_key(&8));
}

#[test]
fn a_linked_peer_that_comes_back_as_another_version_is_one_whose_daemon_has_left() {
    let nodes = SideBySide::new(Caller::Peer);
    nodes.peer.introduce(&nodes.connection, 1);
    nodes.one.poll_until("node 3 comes up", |seen| seen.is_up(3));
    let again = nodes.peer.connect(nodes.one.address).unwrap();
    nodes.peer.runtime.block_on(send(&again, &[VERSION + 1]));
    nodes.one.poll_until("node 3 goes down", |seen| seen.up.get(&3) == Some(&false));
    let seen = nodes.one.seen.lock().unwrap();
    let (reason, end) = seen.end().unwrap();
    assert!(reason.contains(&version(VERSION + 1)) && end == LinkEnd::Leaving, "{reason} {end:?}");
    assert!(!seen.events.iter().any(|event| matches!(event, Event::OtherVersion { .. })), "it is said once");
}

#[test]
fn what_a_later_daemon_of_the_same_version_says_more_is_skipped() {
    for caller in [Caller::Daemon, Caller::Peer] {
        let nodes = SideBySide::new(caller);
        let mut hello = nodes.peer.hello(1);
        *hello.get_mut(FIELDS).unwrap() += 2;
        hello.extend([200, 0, 3, 1, 2, 3, 201, 0, 0]);
        nodes.say(&[&[VERSION, 9, 9, 9], &hello]);
        nodes.one.poll_until("node 3 comes up", |seen| seen.is_up(3));
        assert_eq!(nodes.one.seen.lock().unwrap().counters.links.refused_versions, 0, "{caller:?}");
    }
}
