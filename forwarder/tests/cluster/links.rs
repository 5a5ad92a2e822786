//! Real links over the loopback.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use forwarder::cluster::links::{self, Event, Settings};
use forwarder_core::failover::LinkEnd;
use forwarder_core::node::{Command, DATAGRAM_BYTES, Kind};
use forwarder_core::wire::MESSAGE_BYTES;
use tokio::sync::mpsc;

use super::daemon::{Authority, Daemon, Seen, free};
use super::names::id;

#[track_caller]
fn claims_flow(from: &Daemon, owner: u16, to: &Daemon, key: u64) {
    from.claims.send(key).unwrap();
    to.poll_until("the claim arrives", |seen| seen.claims.get(&key) == Some(&owner));
}

#[test]
fn claims_flow_both_ways_over_ipv4_and_ipv6() {
    let authority = Authority::new("edge");
    for ip in ["127.0.0.1", "::1"] {
        let (a, b) = (free(ip), free(ip));
        let one = Daemon::start(&authority.identity(1, "edge"), a, &[]);
        let two = Daemon::start(&authority.identity(2, "edge"), b, &[a, b]);
        one.poll_until("node 2 comes up", |seen| seen.is_up(2));
        two.poll_until("node 1 comes up", |seen| seen.is_up(1));
        claims_flow(&one, 1, &two, 11);
        claims_flow(&two, 2, &one, 22);
        let seen = one.seen.lock().unwrap();
        assert_eq!(seen.links.len(), 1);
        assert_eq!((seen.links[0].node, seen.links[0].address), (2, b));
        assert!(seen.links[0].rtt_us > 0);
    }
}

#[test]
fn an_ask_and_its_answer_go_over_the_links() {
    let authority = Authority::new("edge");
    let (one, two) = Daemon::pair(&authority);
    one.asks.send(7).unwrap();
    one.poll_until("the answer arrives", |seen| seen.answers.get(&7) == Some(&false));
    two.poll_until("it was node 2 that answered", |seen| seen.counters.core.asks_answered == 1);
    claims_flow(&two, 2, &one, 8);
    one.asks.send(8).unwrap();
    one.poll_until("the claim is known", |seen| seen.answers.get(&8) == Some(&true));
}

#[test]
fn datagrams_reach_linked_peers_whole_and_are_dropped_and_counted_where_they_cannot_go() {
    let authority = Authority::new("edge");
    let (one, two) = Daemon::pair(&authority);
    let send = |to: u16, bytes: Vec<u8>| one.commands.blocking_send(Command::Datagram { to: id(to), bytes }).unwrap();
    send(9, vec![1]);
    send(2, vec![2; DATAGRAM_BYTES + 1]);
    one.poll_until("both are counted", |seen| seen.counters.links.dropped_datagrams == 2);
    let whole = vec![3; DATAGRAM_BYTES];
    let arrived = Event::Datagram { peer: id(1), bytes: whole.clone() };
    two.poll_until("a datagram arrives", |seen| {
        // Unreliable as they are, one of many is enough.
        send(2, whole.clone());
        seen.events.contains(&arrived)
    });
}

#[test]
fn of_two_calls_at_once_exactly_one_link_remains() {
    let authority = Authority::new("edge");
    for round in 0..5 {
        let (one, two) = Daemon::pair(&authority);
        claims_flow(&one, 1, &two, round);
        claims_flow(&two, 2, &one, 100 + round);
        for daemon in [&one, &two] {
            let one_link = |seen: &Seen| seen.counters.links.links_up - seen.counters.links.links_down == 1;
            daemon.poll_until("one link remains", one_link);
            assert_eq!(daemon.seen.lock().unwrap().ended(), 0, "the peer never seemed to be down");
        }
        one.shut_down();
    }
}

#[test]
fn an_end_that_is_killed_is_noticed_by_its_silence_and_comes_back() {
    let authority = Authority::new("edge");
    let (one, two) = Daemon::pair(&authority);
    let (a, b) = (one.address, two.address);
    two.kill();
    one.poll_until("the link goes down", |seen| !seen.is_up(2));
    let end = one.seen.lock().unwrap().end();
    assert_eq!(end, Some(("timed out".to_owned(), LinkEnd::Silent)), "by its silence alone: it has said no goodbye");
    let two = Daemon::start(&authority.identity(2, "edge"), b, &[a]);
    one.poll_until("node 2 comes up again", |seen| seen.is_up(2));
    claims_flow(&one, 1, &two, 11);
    claims_flow(&two, 2, &one, 22);
}

#[test]
fn a_peer_that_nobody_calls_is_found_when_it_calls_again() {
    let authority = Authority::new("edge");
    let (a, b) = (free("127.0.0.1"), free("127.0.0.1"));
    let one = Daemon::start(&authority.identity(1, "edge"), a, &[b]);
    let two = Daemon::start(&authority.identity(2, "edge"), b, &[]);
    two.poll_until("node 1 comes up", |seen| seen.is_up(1));
    one.kill();
    two.poll_until("node 1 goes down", |seen| !seen.is_up(1));
    let is_leaving = |event: &Event| matches!(event, Event::LinkDown { end: LinkEnd::Leaving, .. });
    assert!(!two.seen.lock().unwrap().events.iter().any(is_leaving), "a daemon that was killed has said no goodbye");
    let one = Daemon::start(&authority.identity(1, "edge"), a, &[b]);
    two.poll_until("node 1 comes up again", |seen| seen.is_up(1));
    claims_flow(&one, 1, &two, 5);
}

#[test]
fn an_orderly_end_is_noticed_at_once_and_named() {
    let authority = Authority::new("edge");
    let (one, two) = Daemon::pair(&authority);
    two.shut_down();
    one.poll_until("the link goes down", |seen| !seen.is_up(2));
    // Not by the idle timeout: the peer has said so.
    let (reason, end) = one.seen.lock().unwrap().end().unwrap();
    assert!(reason.contains("shutting down") && end == LinkEnd::Leaving, "{reason}");
}

#[test]
fn a_certificate_of_another_authority_is_refused_counted_and_said_once() {
    let (authority, foreign) = (Authority::new("edge"), Authority::new("edge"));
    let (a, b) = (free("127.0.0.1"), free("127.0.0.1"));
    let one = Daemon::start(&authority.identity(1, "edge"), a, &[]);
    let stranger = Daemon::start(&foreign.identity(2, "edge"), b, &[a]);
    stranger.poll_until("it refuses as well", |seen| seen.counters.links.refused_certificates >= 3);
    // The one who calls checks first, so let the other call too.
    drop(one);
    let one = Daemon::start(&authority.identity(1, "edge"), a, &[b]);
    one.poll_until("three refusals", |seen| seen.counters.links.refused_certificates >= 3);
    for daemon in [&one, &stranger] {
        let seen = daemon.seen.lock().unwrap();
        assert_eq!(seen.refusals().len(), 1, "{:?}", seen.events);
        assert!(seen.refusals()[0].contains("its certificate is not of this cluster"), "{:?}", seen.refusals());
        assert_eq!(seen.counters.links.links_up, 0);
    }
    assert!(one.seen.lock().unwrap().refusals()[0].contains(&b.to_string()));
}

#[test]
fn a_certificate_of_another_cluster_of_the_same_authority_is_refused() {
    let authority = Authority::new("edge");
    let (a, b) = (free("127.0.0.1"), free("127.0.0.1"));
    let one = Daemon::start(&authority.identity(1, "core"), a, &[]);
    let two = Daemon::start(&authority.identity(2, "edge"), b, &[a]);
    one.poll_until("three refusals", |seen| seen.counters.links.refused_certificates >= 3);
    let seen = one.seen.lock().unwrap();
    assert!(seen.refusals()[0].contains("it belongs to cluster \"edge\""), "{:?}", seen.refusals());
    assert!(seen.refusals()[0].contains(&b.to_string()), "{:?}", seen.refusals());
    assert_eq!(seen.counters.links.links_up, 0);
    assert_eq!(two.seen.lock().unwrap().counters.links.links_up, 0, "who is refused never seems to be linked");
}

#[test]
fn a_host_with_this_nodes_id_is_refused_by_both() {
    let authority = Authority::new("edge");
    let (a, b) = (free("127.0.0.1"), free("127.0.0.1"));
    let one = Daemon::start(&authority.identity(1, "edge"), a, &[]);
    let twin = Daemon::start(&authority.identity(1, "edge"), b, &[a]);
    for (daemon, other) in [(&one, b), (&twin, a)] {
        daemon.poll_until("a refusal", |seen| !seen.refusals().is_empty());
        let seen = daemon.seen.lock().unwrap();
        let reason = seen.refusals()[0];
        assert!(
            reason.contains(&format!("refused {other}: its certificate is of node 1, as is this host's")),
            "{reason}"
        );
        assert!(seen.counters.links.duplicate_nodes > 0);
        assert_eq!(seen.counters.links.links_up, 0);
    }
}

#[test]
fn a_second_host_with_a_linked_peers_id_is_refused_and_the_first_stays() {
    let authority = Authority::new("edge");
    let (one, two) = Daemon::pair(&authority);
    let (a, b) = (one.address, two.address);
    let c = free("127.0.0.1");
    let twin = Daemon::start(&authority.identity(2, "edge"), c, &[a]);
    one.poll_until("a refusal", |seen| seen.counters.links.duplicate_nodes > 0 && !seen.refusals().is_empty());
    claims_flow(&one, 1, &two, 11);
    claims_flow(&two, 2, &one, 22);
    let seen = one.seen.lock().unwrap();
    let expected = format!("refused {c}: its certificate is of node 2, which is linked from {b}");
    assert!(seen.refusals()[0].contains(&expected), "{:?}", seen.refusals());
    assert!(!twin.seen.lock().unwrap().is_up(1));
}

#[test]
fn a_peer_that_breaks_the_protocol_is_dropped_kept_out_and_taken_back_while_others_go_on() {
    let authority = Authority::new("edge");
    let (one, two) = Daemon::pair(&authority);
    let three = Daemon::start(&authority.identity(3, "edge"), free("127.0.0.1"), &[one.address]);
    one.poll_until("node 3 comes up", |seen| seen.is_up(3));
    let downs = one.seen.lock().unwrap().downs();
    for (round, message) in [vec![9; 40], vec![1; MESSAGE_BYTES + 1]].into_iter().enumerate() {
        two.commands.blocking_send(Command::Send { to: id(1), message, kind: Kind::Batch }).unwrap();
        one.poll_until("the link is dropped", |seen| seen.counters.links.links_dropped == round as u64 + 1);
        claims_flow(&three, 3, &one, round as u64);
        one.poll_until("node 2 is taken back", |seen| seen.is_up(2) && seen.downs() == downs + round + 1);
    }
    let seen = one.seen.lock().unwrap();
    assert_eq!(seen.counters.core.protocol_errors, 1, "the oversized one does not even reach the core");
    assert!(!seen.events.iter().any(|event| matches!(event, Event::LinkDown { peer, .. } if *peer == id(3))));
}

#[test]
fn addresses_that_cannot_be_used_are_named_with_a_way_out() {
    let identity = Authority::new("edge").identity(1, "edge");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = |listen: SocketAddr, seeds: Vec<SocketAddr>| {
        let settings = Settings { listen, seeds, identity: Arc::clone(&identity) };
        runtime
            .block_on(async { links::spawn(settings, mpsc::channel(1).1, mpsc::channel(1).0) })
            .unwrap_err()
            .to_string()
    };
    let port = taken.local_addr().unwrap();
    let in_use = error(port, vec![]);
    assert!(in_use.starts_with(&format!("listen on {port}: ")), "{in_use}");
    assert!(in_use.contains("hint: another process has this port"), "{in_use}");
    let foreign = error("192.0.2.1:7470".parse().unwrap(), vec![]);
    assert!(foreign.contains("hint: give an address of this host"), "{foreign}");
    let mixed = error("127.0.0.1:0".parse().unwrap(), vec!["[::1]:7470".parse().unwrap()]);
    assert!(mixed.starts_with("call seed [::1]:7470"), "{mixed}");
}

#[test]
fn a_node_with_24_peers_has_all_their_claims_and_they_have_all_of_its() {
    const PEERS: u16 = 24;
    const CLAIMS: u64 = 2000;
    let authority = Authority::new("edge");
    let hub = Daemon::start(&authority.identity(1, "edge"), free("127.0.0.1"), &[]);
    // All of one address: more than may shake hands from there at once, so some have to come again.
    let start = |node| Daemon::start_aloof(&authority.identity(node, "edge"), free("127.0.0.1"), &[hub.address]);
    let peers: Vec<Daemon> = (2..2 + PEERS).map(start).collect();
    hub.poll_until("all are linked", |seen| seen.links.len() == usize::from(PEERS));
    (0..CLAIMS).for_each(|key| hub.claims.send(key).unwrap());
    for (node, peer) in (2_u16..).zip(&peers) {
        peer.claims.send(CLAIMS + u64::from(node)).unwrap();
        peer.poll_until("the node's claims arrive", |seen| (0..CLAIMS).all(|key| seen.claims.get(&key) == Some(&1)));
    }
    hub.poll_until("the peers' claims arrive", |seen| {
        (2..2 + PEERS).all(|node| seen.claims.get(&(CLAIMS + u64::from(node))) == Some(&node))
    });
    let seen = hub.seen.lock().unwrap();
    assert_eq!((seen.ended(), seen.links.len()), (0, usize::from(PEERS)), "{:?}", seen.events);
    assert!(seen.links.iter().all(|link| link.sent_bytes > CLAIMS * 21 && link.sent_packets > CLAIMS / 100));
}

#[test]
fn a_hundred_thousand_claims_arrive_with_a_late_joiner_too() {
    let authority = Authority::new("edge");
    let (one, two) = Daemon::pair(&authority);
    (0..100_000).for_each(|key| one.claims.send(key).unwrap());
    two.poll_until("all claims arrive", |seen| seen.claims.len() == 100_000);
    let late = Daemon::start(&authority.identity(3, "edge"), free("127.0.0.1"), &[one.address]);
    late.poll_until("the snapshot arrives", |seen| seen.claims.len() == 100_000);
    assert!(late.seen.lock().unwrap().claims.values().all(|owner| *owner == 1));
    assert_eq!(one.seen.lock().unwrap().counters.links.dropped_messages, 0);
}
