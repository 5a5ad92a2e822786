//! Certificates that change, end or are denied while links stand.

use std::sync::Arc;
use std::time::Duration;

use forwarder::config::Deny;
use forwarder::identity::Identity;
use time::OffsetDateTime;

use super::daemon::{Authority, Daemon, Seen, free};

fn ends(seen: &Seen, node: u16) -> Option<i64> {
    seen.links.iter().find(|link| link.node == node).map(|link| link.expires_s)
}

fn renew(daemon: &Daemon, identity: Identity) {
    daemon.identities.send(Arc::new(identity)).unwrap();
}

#[test]
fn a_new_certificate_is_shown_to_peers_without_a_link_going_down() {
    let authority = Authority::new("edge");
    let (one, two) = Daemon::pair(&authority);
    for (daemon, other, node, year) in [(&one, &two, 1, 2071), (&two, &one, 2, 2072)] {
        let end = rcgen::date_time_ymd(year, 1, 2);
        renew(daemon, authority.identity_until(node, "edge", end));
        other.poll_until("it is shown", |seen| ends(seen, node) == Some(end.unix_timestamp()));
    }
    for daemon in [&one, &two] {
        let seen = daemon.seen.lock().unwrap();
        assert_eq!(seen.ended(), 0, "links are replaced, not ended: {:?}", seen.events);
    }
}

#[test]
fn an_authority_takes_the_place_of_another_without_a_link_going_down() {
    let (old, new) = (Authority::new("edge"), Authority::new("edge"));
    let (one, two) = Daemon::pair(&old);
    let both = [(&one, 1), (&two, 2)];
    for (daemon, node) in both {
        renew(daemon, old.trusting(&new, old.own(node, "edge")));
    }
    let end = rcgen::date_time_ymd(2073, 1, 2);
    for (daemon, node) in both {
        renew(daemon, new.trusting(&old, new.identity_until(node, "edge", end)));
    }
    for (daemon, other) in [(&one, 2), (&two, 1)] {
        daemon.poll_until("the new one is shown", |seen| ends(seen, other) == Some(end.unix_timestamp()));
    }
    for (daemon, node) in both {
        renew(daemon, new.identity_until(node, "edge", end));
    }
    let three = Daemon::start(&new.identity(3, "edge"), free("127.0.0.1"), &[one.address, two.address]);
    for daemon in [&one, &two] {
        daemon.poll_until("a node of the new authority comes up", |seen| seen.is_up(3));
        assert_eq!(daemon.seen.lock().unwrap().ended(), 0);
    }
    // It trusts the new one, so it is not the one that refuses.
    let stranger = Arc::new(old.trusting(&new, old.own(4, "edge")));
    let stranger = Daemon::start(&stranger, free("127.0.0.1"), &[one.address]);
    one.poll_until("one of the old authority is refused", |seen| seen.counters.links.refused_certificates > 0);
    drop((three, stranger));
}

#[test]
fn a_denied_peer_loses_its_link_at_once_and_stays_out() {
    let authority = Authority::new("edge");
    let (one, two) = Daemon::pair(&authority);
    let three = Daemon::start(&authority.identity(3, "edge"), free("127.0.0.1"), &[one.address]);
    one.poll_until("node 3 comes up", |seen| seen.is_up(3));
    let deny = Deny { nodes: [2].into(), ..Deny::default() };
    renew(&one, Identity { deny, ..authority.own(1, "edge") });
    one.poll_until("node 2 goes down and is refused again", |seen| {
        !seen.is_up(2) && seen.counters.links.refused_certificates >= 2
    });
    let seen = one.seen.lock().unwrap();
    assert!(seen.refusals()[0].contains("node 2 is denied by this node's configuration"), "{:?}", seen.refusals());
    assert!(seen.is_up(3) && seen.ended() == 1, "nobody else is disturbed: {:?}", seen.events);
    assert_eq!(seen.counters.links.links_dropped, 0, "it has broken no protocol");
    drop((two, three));
}

#[test]
fn a_link_ends_with_its_peers_certificate() {
    let authority = Authority::new("edge");
    // On a machine that stalls a certificate may end before there is a link: then one that lasts longer is tried.
    let ended = [2, 4, 8, 16].into_iter().any(|seconds| ends_with_its_certificate(&authority, seconds));
    assert!(ended, "no link came up before its certificate's end");
}

/// Whether a link that came up has ended with its peer's certificate; false when none came up before that.
fn ends_with_its_certificate(authority: &Authority, seconds: u64) -> bool {
    let (a, b) = (free("127.0.0.1"), free("127.0.0.1"));
    let one = Daemon::start(&authority.identity(1, "edge"), a, &[b]);
    let end = OffsetDateTime::now_utc() + Duration::from_secs(seconds);
    let two = Daemon::start(&Arc::new(authority.identity_until(2, "edge", end)), b, &[]);
    one.poll_until("node 2 is refused from its certificate's end on", |seen| {
        !seen.is_up(2) && seen.counters.links.refused_certificates >= 3
    });
    let seen = one.seen.lock().unwrap();
    assert_eq!(seen.downs() as u64, seen.counters.links.links_up, "{:?}", seen.events);
    assert_eq!(two.seen.lock().unwrap().counters.links.refused_certificates, 0);
    if seen.counters.links.links_up == 0 {
        return false;
    }
    assert!(seen.refusals().first().is_some_and(|why| why.contains("its certificate has ended")), "{:?}", seen.events);
    assert!(OffsetDateTime::now_utc() > end, "it has ended too early");
    true
}
