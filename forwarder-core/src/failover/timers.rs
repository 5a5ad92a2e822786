//! Every timer of the failover, in microseconds, and how they must relate.
//!
//! The links, the kernel programs and the machine each wait for something that another of them does. The assertions at
//! the end are those dependencies: a change that breaks one does not compile.

use forwarder_common::abi::LeaseWord;

/// A link without a packet for so long has ended (QUIC's idle timeout, RFC 9000 §10.1).
pub const LINK_IDLE_US: u64 = 1_000_000;
/// How often an end of a link with nothing to say sends something; three may be lost.
pub const LINK_KEEP_ALIVE_US: u64 = 250_000;
/// How long an accepted call waits for this node's own call to the same peer, which is to be the link.
pub const LINK_PARKED_US: u64 = 500_000;
/// How long the better connection may take to be heard of, once the peer has closed this one for it.
pub const LINK_SUCCESSOR_US: u64 = 1_000_000;

/// How long the programs take the daemon for alive after it has renewed its lease.
pub const LEASE_US: u64 = 1_500_000;
/// How often the daemon renews its lease.
pub const LEASE_RENEWAL_US: u64 = 250_000;
/// How long after the end of a lease the programs take the peers to be as the maps say.
pub const LEASE_GRACE_US: u64 = LeaseWord::GRACE_NS / 1000;

/// A loop that is late by so much has stalled: links may have ended meanwhile through no fault of the peers.
pub const STALL_US: u64 = 750_000;
/// How long after a stall a link takes at most to notice that it has ended; one that lasts longer has not.
pub const STALL_NOTICE_US: u64 = 500_000;

/// How long a peer whose host goes on counts as up without a link; and how long a node that was away looks for its
/// peers.
pub const REJOIN_US: u64 = 5_000_000;
/// How often a peer that is up is asked through the tunnel whether its programs are there, and what its clock shows.
pub const PROBE_US: u64 = 1_000_000;
/// How often one in grace is, of which nothing else says that it goes on.
pub const GRACE_PROBE_US: u64 = 100_000;
/// How long a peer of which nothing is heard on its link may take to answer through the tunnel, and how long each
/// answer keeps it up.
pub const PATH_US: u64 = 500_000;
/// How long a peer stays up without a link while its programs answer: a proxy is not dead because its daemon is.
pub const AWAY_US: u64 = 60_000_000;
/// How long after the end of a link the lease of a daemon that is dead may still say that it lives.
pub const LEASE_TAIL_US: u64 = LEASE_US - LINK_IDLE_US + LEASE_RENEWAL_US;

/// How long a node with silent proxies still counts as up, or as out, when it is to be the other: by then it has heard
/// whatever its peers had said.
pub const LAST_US: u64 = 2_500_000;
/// A proxy that answers this long without a socket lives where its sockets cannot be seen, such as behind address
/// translation.
pub const UNSEEN_US: u64 = 1_000_000;

/// How long a starting node waits for what its peers know: then it is alone, or they are too slow.
pub const JOIN_US: u64 = 5_000_000;
/// How long after its start a node without maps gives up the epochs of which its peers say that they know them from
/// before. A peer that says so later is believed no more: it would end the claims that this node has made since.
pub const FRESH_US: u64 = 60_000_000;
/// How long a daemon that is told to end still tells its peers of claims: what the proxy has just got, it answers by
/// then.
pub const LINGER_US: u64 = 200_000;

const _: () = {
    // A keep-alive that is lost, and the next one, must not end a link.
    assert!(LINK_IDLE_US >= 4 * LINK_KEEP_ALIVE_US);
    // A shorter stall cannot have ended a link: before it began, a keep-alive was sent or answered.
    assert!(STALL_US <= LINK_IDLE_US - LINK_KEEP_ALIVE_US);
    // A loop that is not stalled renews its lease in time.
    assert!(LEASE_US >= STALL_US + LEASE_RENEWAL_US);
    // Peers notice silence before the programs stop punting: they do not send to a node that nobody looks after.
    assert!(LEASE_US > LINK_IDLE_US);
    // After a stall every link that has ended says so within this: its timers fire when the loop goes on.
    assert!(STALL_NOTICE_US >= LINK_KEEP_ALIVE_US);
    // A daemon that is restarted is back, linked and introduced, before its peers give its node up.
    assert!(REJOIN_US > LINK_IDLE_US + LINK_SUCCESSOR_US + LINK_PARKED_US);
    // A node that has given up waiting for its peers is not one that they still wait for.
    assert!(JOIN_US >= REJOIN_US);
    // While a daemon is away for as long as its peers count its node as up, its programs send to them.
    assert!(LEASE_GRACE_US >= REJOIN_US + LEASE_US && LEASE_GRACE_US >= AWAY_US);
    // Two questions may be lost without harm.
    assert!(PATH_US > 3 * GRACE_PROBE_US);
    // An answer does not keep a peer up for longer than the end of its host is to be missed.
    assert!(PATH_US < LINK_IDLE_US);
    // By then the peers have linked that could.
    assert!(FRESH_US >= 2 * JOIN_US);
    // The programs' answers outlast a restart.
    assert!(AWAY_US > REJOIN_US);
    // Of two that fall silent, the later one hears that the earlier one has gone before it may go itself: what is said
    // arrives before its link would have ended, and twice that passes.
    assert!(LAST_US > 2 * LINK_IDLE_US);
    // A daemon that ends does so before its lease and before its links would.
    assert!(LINGER_US < LINK_IDLE_US);
};
