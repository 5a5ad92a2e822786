//! Whether a claim counts, and what becomes of one that this node makes: decided here for programs, daemon and
//! simulation alike.

use crate::{
    ids::{Epoch, Epochs, Tick},
    lifetime::Lifetime,
    table::Entry,
};

/// Whether the table's claim counts: it has not expired, its owner is up and its epoch is live.
///
/// `live` gives the live epochs of a node, none of one that is down; this node is up. A claim that does not count is as
/// if it were not there.
#[inline(always)] // a few compares
pub fn is_effective(entry: Entry, now: Tick, live: impl FnOnce(u16) -> Epochs) -> bool {
    entry.remaining(now) != 0 && live(entry.owner()).contains(entry.epoch())
}

/// What becomes of the claim that a message of this node makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// It is made: there is none that counts.
    New,
    /// It is this node's already, and its end moves.
    Refresh,
    /// It is this node's already, and its end stays.
    Keep,
    /// As [`Self::Keep`], and the daemon is to hear of the message.
    Tell,
    /// Another node's claim counts.
    Foreign,
    /// There is none that counts, and the message makes none.
    NoClaim,
}

/// The lifetime that a message gives to the claim of a key, where `effective` is the claim that the table has and that
/// counts.
#[inline(always)] // a few compares
#[must_use]
pub const fn lifetime(effective: Option<Entry>, lifetime: Lifetime, me: u16, now: Tick) -> Lifetime {
    match effective {
        Some(entry) if entry.owner() == me => lifetime.of_claim(entry.remaining(now) as u16),
        Some(_) | None => lifetime,
    }
}

/// What becomes of a claim with this lifetime by node `me`, where `effective` is the claim that the table has and that
/// counts.
#[inline(always)] // a few compares
pub const fn decide(effective: Option<Entry>, lifetime: Lifetime, me: u16, now: Tick) -> Decision {
    match effective {
        Some(entry) if entry.owner() != me => Decision::Foreign,
        Some(entry) if lifetime.extends(entry.remaining(now) as u16) => Decision::Refresh,
        Some(entry) if lifetime.tells(entry.remaining(now) as u16) => Decision::Tell,
        Some(_) => Decision::Keep,
        None if lifetime.claims => Decision::New,
        None => Decision::NoClaim,
    }
}

/// The epoch of a claim that is made or made longer: it belongs to the run of the proxy that made it, whoever makes it
/// longer, and a new one to the run that sends, `sender`.
///
/// `effective` as in [`decide`].
#[inline(always)] // a compare
#[must_use]
pub const fn epoch(effective: Option<Entry>, sender: u8) -> u8 {
    match effective {
        Some(entry) => entry.epoch().number(),
        None => sender,
    }
}

/// The entry of a claim whose owner's daemon moves its end, `remaining_ms` from now, where it took `was_ms` to be left.
/// `None`: the table's claim of the key is not the one that the daemon means, or the programs have made it longer
/// meanwhile, which they have told or are about to.
///
/// `key` and `epoch` are those of the daemon's claim, `me` is its node.
#[must_use]
pub fn ended(
    entry: Entry,
    (key, epoch): (u64, Epoch),
    me: u16,
    was_ms: u64,
    remaining_ms: u64,
    now: Tick,
) -> Option<Entry> {
    // Neither end is known better than to a tick.
    let (left, most) = (entry.remaining(now), u64::from(Tick::covering_ms(was_ms)) + 1);
    let is_meant = entry.matches(key) && entry.owner() == me && entry.epoch() == epoch && (1..=most).contains(&left);
    is_meant.then(|| Entry::new(key, me, epoch.number(), now.after(Tick::covering_ms(remaining_ms))))
}

/// The epochs of a node that its claims may be of: none while it is down.
#[inline(always)] // a compare
#[must_use]
pub const fn live(is_up: bool, epochs: Epochs) -> Epochs {
    if is_up { epochs } else { Epochs::EMPTY }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        abi::Lifetimes,
        ids::Epoch,
        lifetime,
        sip::{Kind, Method},
    };

    const ME: u16 = 1;
    const PEER: u16 = 2;
    const DOWN: u16 = 3;
    const NOW: Tick = Tick::new(1000);

    /// Node 1 has two proxies, node 2 one, and node 3 is down.
    fn live(node: u16) -> Epochs {
        match node {
            ME => Epochs::EMPTY.with(Epoch::new(4)).with(Epoch::new(5)),
            PEER => Epochs::EMPTY.with(Epoch::new(5)),
            _ => Epochs::EMPTY,
        }
    }

    fn entry(owner: u16, epoch: u8, ticks: u16) -> Entry {
        Entry::new(0, owner, epoch, NOW.after(ticks))
    }

    #[test]
    fn a_claim_counts_until_it_ends_in_a_live_epoch_of_a_node_that_is_up() {
        for (entry, counts) in [
            (entry(ME, 4, 1), true),
            (entry(ME, 5, 1), true),
            (entry(ME, 6, 1), false),
            (entry(PEER, 5, 1), true),
            (entry(PEER, 4, 1), false),
            (entry(DOWN, 5, 1), false),
            (entry(ME, 4, 0), false),
            (entry(PEER, 5, u16::MAX), false),
            (Entry::default(), false),
        ] {
            assert_eq!(is_effective(entry, NOW, live), counts, "{entry:?}");
        }
    }

    #[test]
    fn what_becomes_of_a_claim_follows_the_table() {
        use Decision::{Foreign, Keep, New, NoClaim, Refresh, Tell};
        let lifetimes = Lifetimes { proceeding: 57, failed: 18, ended: 11, call: 1700 };
        let of = |message, method, status, drains| lifetime::of(message, method, status, &lifetimes, 0, drains);
        let messages = [
            of(Kind::Request, Method::Invite, 0, false),    // INVITE
            of(Kind::Response, Method::Invite, 180, false), // it rings
            of(Kind::Response, Method::Invite, 200, false), // its end
            of(Kind::Cancel, Method::Other, 0, false),
            of(Kind::Ack, Method::Other, 0, false),
            of(Kind::Request, Method::Other, 0, true), // anything else, while the node drains
        ];
        let new = [New, New, New, NoClaim, NoClaim, New];
        for (found, expected) in [
            // What does not count is as if it were not there: nothing, expired, of an earlier epoch, of a node that is
            // down.
            (None, new),
            (Some(entry(ME, 4, 0)), new),
            (Some(entry(ME, 6, 50)), new),
            (Some(entry(PEER, 4, 50)), new),
            (Some(entry(DOWN, 5, 50)), new),
            // A peer's that counts is left alone.
            (Some(entry(PEER, 5, 50)), [Foreign; 6]),
            // An own one is written anew where it gains, and never to end earlier.
            (Some(entry(ME, 4, 57)), [Keep, Tell, Tell, Keep, Tell, Keep]),
            (Some(entry(ME, 5, 12)), [Refresh, Refresh, Tell, Refresh, Keep, Keep]),
            (Some(entry(ME, 5, 11)), [Refresh, Refresh, Keep, Refresh, Keep, Keep]),
            (Some(entry(ME, 5, 1)), [Refresh, Refresh, Refresh, Refresh, Keep, Keep]),
        ] {
            let effective = found.filter(|entry| is_effective(*entry, NOW, live));
            assert_eq!(messages.map(|lifetime| decide(effective, lifetime, ME, NOW)), expected, "{found:?}");
            // Whichever of this node's proxies sends, a claim stays in the epoch of the one that has made it.
            let epochs = [4, 5].map(|sender| epoch(effective, sender));
            assert_eq!(epochs, effective.map_or([4, 5], |entry| [entry.epoch().number(); 2]), "{found:?}");
        }
    }

    #[test]
    fn the_end_of_a_claim_moves_where_it_is_the_one_that_the_daemon_means() {
        const KEY: u64 = 0x1234_5678_9abc_def0;
        let ticks = |ms| Tick::covering_ms(ms);
        let entry = |key, owner, epoch, left_ms| Entry::new(key, owner, epoch, NOW.after(ticks(left_ms)));
        let table = [
            ("as the daemon knows it", entry(KEY, ME, 3, 100_000), true),
            ("shorter than it knows", entry(KEY, ME, 3, 1_000), true),
            ("a tick longer", Entry::new(KEY, ME, 3, NOW.after(ticks(100_000) + 1)), true),
            ("made longer meanwhile", Entry::new(KEY, ME, 3, NOW.after(ticks(100_000) + 2)), false),
            ("expired", Entry::new(KEY, ME, 3, NOW), false),
            ("of another epoch", entry(KEY, ME, 4, 100_000), false),
            ("a peer's", entry(KEY, PEER, 3, 100_000), false),
            ("of another key", entry(!KEY, ME, 3, 100_000), false),
        ];
        for remaining_ms in [1, 30_000, 300_000] {
            for (what, entry, moves) in table {
                let got = ended(entry, (KEY, Epoch::new(3)), ME, 100_000, remaining_ms, NOW);
                let expected = Entry::new(KEY, ME, 3, NOW.after(ticks(remaining_ms)));
                assert_eq!(got, moves.then_some(expected), "{what}");
            }
        }
    }
}
