//! Two nodes claim one key: their owners settle whose claim counts, and nobody wins more by lying about times.

use std::collections::BTreeSet;

use forwarder_common::{ids::Epoch, rest::KeyKind};
use forwarder_core::wire::{Claim, Claims, Message};

use super::mesh::{Mesh, claim, id, pairs, stretch};

const LIFETIME_MS: u64 = 200_000;
const KEYS: u64 = 10_000;
const OWNER: u16 = 2;
const HOUR_US: i64 = 3_600_000_000;
/// What a peer may win at once, and a second on top.
const WINS: u64 = 1024;
const WINS_A_SECOND: u64 = 16;

/// How many of the keys a node's kernel places at the owner.
fn kept(mesh: &Mesh, node: u16) -> u64 {
    let claims = &mesh.kernels.get(&id(node)).unwrap().claims;
    (0..KEYS).filter(|key| claims.get(key).is_some_and(|(held, ..)| *held == id(OWNER))).count() as u64
}

/// Four nodes, linked for long, of which one has claimed the keys; and a thief among the others.
struct Robbery {
    mesh: Mesh,
    thief: u16,
    /// The number of the thief's next claim.
    next: u64,
    began_us: u64,
}

impl Robbery {
    fn new(thief: u16) -> Self {
        let mut mesh = Mesh::linked(4, 1);
        (0..KEYS).for_each(|key| mesh.claim(id(OWNER), key, LIFETIME_MS));
        mesh.run_for(5_000_000);
        let began_us = mesh.now_us;
        Self { mesh, thief, next: 0, began_us }
    }

    fn others(&self) -> impl Iterator<Item = u16> + use<> {
        let thief = self.thief;
        (1..=4).filter(move |node| *node != thief)
    }

    /// The thief says to all others that it has claimed all keys before all others.
    fn rob(&mut self, message: fn(Claims) -> Message) {
        let keys: Vec<u64> = (0..KEYS).collect();
        for some in keys.chunks(49) {
            let claims: Vec<Claim> = some.iter().map(|key| claim(*key, 0, LIFETIME_MS as u32)).collect();
            let theft = message(stretch(self.next, claims)).encode();
            self.next += 49;
            for node in self.others() {
                self.mesh.deliver(id(self.thief), id(node), &theft);
            }
        }
        // Between two sweeps, each second one: what the owner withdraws then is not on its way any more.
        let past_us = self.mesh.now_us % 2_000_000;
        self.mesh.run_for(4_000_000 - past_us);
        self.check();
    }

    /// The owner has lost no more than a peer may win, and all others go by what it says.
    fn check(&self) {
        let seconds = (self.mesh.now_us - self.began_us) / 1_000_000 + 1;
        let least = KEYS - WINS - WINS_A_SECOND * seconds;
        assert!(kept(&self.mesh, OWNER) >= least, "{} of at least {least}", kept(&self.mesh, OWNER));
        for key in 0..KEYS {
            let owners: BTreeSet<Option<u16>> =
                self.others().map(|node| self.mesh.owners(key).get(usize::from(node) - 1).copied().flatten()).collect();
            assert_eq!(owners.len(), 1, "{key}: {owners:?}");
        }
        assert_eq!(self.mesh.errors, []);
    }

    fn unlink(&mut self) {
        self.others().for_each(|node| self.mesh.unlink(id(self.thief), id(node)));
    }

    /// Everything is the owner's again when the thief is gone.
    fn end(mut self) {
        self.unlink();
        self.mesh.run_for(3_000_000);
        let kept: Vec<u64> = self.others().map(|node| kept(&self.mesh, node)).collect();
        assert_eq!(kept, [KEYS; 3], "all of them, and not 1,024");
    }
}

#[test]
fn a_thief_that_must_have_known_of_the_claims_gets_its_few_or_none() {
    for thief in [1, 3] {
        let mut robbery = Robbery::new(thief);
        robbery.rob(Message::Batch);
        // Of two claims made before all others that of the lower id is first.
        assert_eq!(kept(&robbery.mesh, OWNER) == KEYS, thief > OWNER);
        assert_eq!(robbery.mesh.nodes[&id(OWNER)].counters().conflicts_asserted, KEYS);
        robbery.end();
    }
}

#[test]
fn a_thief_that_says_it_again_and_again_gets_its_few() {
    for thief in [1, 3] {
        let mut robbery = Robbery::new(thief);
        for _ in 0..4 {
            robbery.rob(Message::Batch);
        }
        assert_eq!(kept(&robbery.mesh, OWNER) == KEYS, thief > OWNER);
        robbery.end();
    }
}

#[test]
fn a_thief_that_dates_its_snapshots_back_or_links_anew_gets_its_few() {
    for thief in [1, 3] {
        let mut robbery = Robbery::new(thief);
        robbery.rob(Message::Snapshot);
        assert!(kept(&robbery.mesh, OWNER) < KEYS);
        for _ in 0..3 {
            robbery.unlink();
            robbery.mesh.run_for(1_000_000);
            let thief = id(robbery.thief);
            robbery.others().for_each(|node| robbery.mesh.link(thief, id(node)));
            robbery.mesh.run_for(100_000);
            robbery.rob(Message::Batch);
        }
        robbery.end();
    }
}

#[test]
fn a_clock_an_hour_off_takes_nothing_that_another_node_has_claimed_before() {
    for off in [-HOUR_US, HOUR_US] {
        for (first, second) in [(1, 2), (2, 1), (3, 2), (1, 4)] {
            for skewed in [first, second] {
                let mut mesh = Mesh::linked(4, 1);
                mesh.clock_off_us.insert(id(skewed), off);
                // What the first one has claimed comes later than what the second one claims.
                mesh.batch_delay_us = 400_000;
                mesh.claim(id(first), 7, LIFETIME_MS);
                mesh.run_for(300_000);
                mesh.batch_delay_us = 0;
                mesh.claim(id(second), 7, LIFETIME_MS);
                mesh.run_for(10_000);
                assert_eq!(mesh.owners(7), [Some(first); 4], "{first} before {second}, {skewed} is off by {off}");
                mesh.run_for(3_000_000);
                assert_eq!(mesh.owners(7), [Some(first); 4], "{first} before {second}, {skewed} is off by {off}");
            }
        }
    }
}

#[test]
fn a_reply_that_went_astray_takes_nothing_from_whoever_has_sent_the_request_on() {
    for off in [-HOUR_US, 0, HOUR_US] {
        // When the stray one leaves, its node is yet to hear of the owner's claim, by less or more than a peer may
        // count on to be heard within.
        for (owner, stray, late_us) in [(1, 2, 50_000), (2, 1, 50_000), (1, 2, 900_000), (2, 1, 900_000)] {
            let mut mesh = Mesh::linked(3, 1);
            mesh.clock_off_us.insert(id(owner), off);
            mesh.batch_delay_us = late_us;
            mesh.claim(id(owner), 7, LIFETIME_MS);
            mesh.run_for(10_000);
            mesh.batch_delay_us = 0;
            mesh.claim_by_reply(id(stray), 7, LIFETIME_MS);
            mesh.run_for(3_000_000);
            assert_eq!(mesh.owners(7), [Some(owner); 3], "{owner}, whose clock is off by {off}, late by {late_us}");
        }
    }
}

#[test]
fn a_restarted_daemon_claims_nothing_for_the_replies_that_went_astray_while_it_was_away() {
    for off in [-HOUR_US, 0, HOUR_US] {
        let mut mesh = Mesh::linked(3, 1);
        mesh.clock_off_us.insert(id(1), off);
        [id(1), id(3)].iter().for_each(|peer| mesh.unlink(*peer, id(2)));
        mesh.claim(id(1), 7, LIFETIME_MS);
        let (epoch, now_us) = (Epoch::new(0), mesh.now_us);
        mesh.kernels.get_mut(&id(2)).unwrap().claim_by_reply(7, id(2), epoch, LIFETIME_MS, now_us);
        mesh.start(id(2), epoch, 1000);
        [id(1), id(3)].iter().for_each(|peer| mesh.link(*peer, id(2)));
        mesh.run_for(1_000_000);
        assert_eq!(mesh.owners(7), [Some(1); 3], "a clock off by {off}");
    }
}

#[test]
fn where_replies_alone_have_claimed_a_key_the_first_one_counts() {
    let mut mesh = Mesh::linked(3, 1);
    mesh.batch_delay_us = 50_000;
    mesh.claim_by_reply(id(2), 7, LIFETIME_MS);
    mesh.run_for(10_000);
    mesh.claim_by_reply(id(1), 7, LIFETIME_MS);
    mesh.run_for(3_000_000);
    assert_eq!(mesh.owners(7), [Some(2); 3]);
    // And it stays a reply's, whatever is sent on later: the others do not know when.
    mesh.claim(id(2), 7, 2 * LIFETIME_MS);
    mesh.claim(id(3), 8, LIFETIME_MS);
    mesh.claim_by_reply(id(3), 8, 2 * LIFETIME_MS);
    let kind = |node, key| mesh.nodes[&id(node)].claim(key, mesh.now(id(node))).unwrap().purpose.kind();
    assert_eq!((kind(2, 7), kind(3, 8)), (Some(KeyKind::Answered), Some(KeyKind::Request)));
}

#[test]
fn of_claims_made_within_a_millisecond_one_counts_everywhere() {
    for seed in 0..60 {
        let mut mesh = Mesh::linked(5, seed);
        mesh.latency_us = (50, 20_000);
        mesh.loss = [0, 300][seed as usize % 2];
        for node in 1..=5 {
            let off = [0, -HOUR_US, HOUR_US][mesh.random_below(3) as usize];
            mesh.clock_off_us.insert(id(node), off);
        }
        for key in 0..40 {
            for _ in 0..2 + mesh.random_below(3) {
                let node = id(1 + mesh.random_below(5) as u16);
                mesh.claim(node, key, LIFETIME_MS);
                let pause = mesh.random_below(300);
                mesh.run_for(pause);
            }
        }
        mesh.run_for(1_000_000);
        mesh.loss = 0;
        mesh.run_for(10_000_000);
        for key in 0..40 {
            let owners: BTreeSet<Option<u16>> = mesh.owners(key).into_iter().collect();
            assert!(owners.len() == 1 && !owners.contains(&None), "seed {seed}, key {key}: {owners:?}");
        }
    }
}

#[test]
fn more_keys_than_a_peer_may_win_are_settled_after_a_partition_all_the_same() {
    let mut mesh = Mesh::linked(4, 1);
    let cut: Vec<_> = pairs(4).into_iter().filter(|(a, b)| (a.number() <= 2) != (b.number() <= 2)).collect();
    cut.iter().for_each(|(a, b)| mesh.unlink(*a, *b));
    (0..3000).for_each(|key| mesh.claim(id(if key % 2 == 0 { 1 } else { 4 }), key, 400_000));
    mesh.run_for(1_000_000);
    (0..3000).for_each(|key| mesh.claim(id(if key % 2 == 0 { 4 } else { 1 }), key, 400_000));
    mesh.run_for(1_000_000);
    cut.iter().for_each(|(a, b)| mesh.link(*a, *b));
    mesh.run_for(200_000_000);
    for key in 0..3000 {
        let owners: BTreeSet<Option<u16>> = mesh.owners(key).into_iter().collect();
        assert!(owners.len() == 1 && !owners.contains(&None), "{key}: {owners:?}");
    }
}

#[test]
fn what_was_withdrawn_does_not_come_back_with_a_message_that_was_overtaken() {
    let mut mesh = Mesh::linked(3, 1);
    let say = |mesh: &mut Mesh, number: u64, remaining_ms: u32| {
        let said = Message::Batch(stretch(number, vec![claim(7, 5, remaining_ms)]));
        mesh.deliver(id(2), id(1), &said.encode());
        mesh.nodes[&id(1)].claim(7, mesh.now(id(1))).map(|held| held.owner)
    };
    assert_eq!(say(&mut mesh, 3, 37_000), Some(id(2)));
    assert_eq!(say(&mut mesh, 5, 0), None);
    assert_eq!(say(&mut mesh, 4, 37_000), None, "said before it was withdrawn");
    assert_eq!(say(&mut mesh, 6, 37_000), Some(id(2)), "said after that");
    assert_eq!(say(&mut mesh, 2, 0), Some(id(2)), "withdrawn before that");
    assert_eq!(mesh.errors, []);
}

#[test]
fn what_an_owner_has_withdrawn_comes_back_when_the_winner_withdraws_or_leaves_it_out() {
    // Node 3 has claimed a key before node 2, and nobody has heard of it but its own kernel.
    for leaves_out in [false, true] {
        let mut mesh = Mesh::linked(3, 1);
        mesh.claim(id(2), 7, LIFETIME_MS);
        mesh.run_for(100_000);
        let earlier = Message::Snapshot(stretch(0, vec![claim(7, 1, 190_000)])).encode();
        [1, 2].iter().for_each(|node| mesh.deliver(id(3), id(*node), &earlier));
        mesh.run_for(3_000_000);
        assert_eq!(mesh.owners(7)[..2], [Some(3), Some(3)]);
        if leaves_out {
            // It counts as up meanwhile.
            mesh.start(id(3), Epoch::new(0), 1000);
            [1, 2].iter().for_each(|node| mesh.link(id(3), id(*node)));
        } else {
            let withdrawal = Message::Batch(stretch(1, vec![claim(7, 1, 0)])).encode();
            [1, 2].iter().for_each(|node| mesh.deliver(id(3), id(*node), &withdrawal));
        }
        mesh.run_for(3_000_000);
        assert_eq!(mesh.owners(7), [Some(2); 3], "leaves it out: {leaves_out}");
    }
}
