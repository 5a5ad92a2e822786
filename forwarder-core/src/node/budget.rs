//! How much of this node's time one peer may take.
//!
//! This is the only place that says so. The links read what a peer sends one by one and wait for the loop with each, so
//! a peer that sends faster than it is heard is slowed down (streams) or loses what it sends (datagrams). What a peer
//! sends is paid for in nanoseconds of the loop, by what the worst of its kind costs (`cargo xtask bench --cluster`).

use crate::now::Now;
use crate::wire::{MESSAGE_ASKS, Message};

/// Nanoseconds that a peer may take a second: a quarter of the loop. 100,000 claims in 10,000 messages take
/// three quarters of that.
const WORK_A_SECOND: u64 = 250_000_000;
/// Nanoseconds that it may take at once: a snapshot of five million claims.
const WORK: u64 = 5_000_000_000;
/// A message, whatever is in it, with what the links do for it.
const MESSAGE_NS: u64 = 10_000;
/// A hello that says nothing new.
const HELLO_NS: u64 = 10_000;
/// A claim that is new, or changed, with the write into the kernel's table.
const CLAIM_NS: u64 = 900;
/// A claim in conflict with another node's: the loser is kept, and may have to be told. This
/// comes on top.
const CONFLICT_NS: u64 = 1_500;
/// One of an ask or an answer.
const ASK_NS: u64 = 200;
/// A number of this node's log that is to be sent again.
const NUMBER_NS: u64 = 200;

/// Hellos with something new that a peer may say at once. Each has reassemblers and successors chosen anew and written.
const CHANGES: u64 = 10;
/// The same a second on top; the last of those beyond it is heard later.
const CHANGES_A_SECOND: u64 = 2;
/// When one beyond it is heard, in microseconds.
pub(super) const CHANGE_US: u64 = SECOND_US / CHANGES_A_SECOND;
/// Streams without a message that a peer may send at once: an honest peer has one or two on each link.
const NOTHINGS: u64 = 1000;
/// The same a second on top.
const NOTHINGS_A_SECOND: u64 = 300;
/// Datagrams that a peer may send at once.
const DATAGRAMS: u64 = 1000;
/// Datagrams a second on top: news come in fifty at most, and all else in six.
const DATAGRAMS_A_SECOND: u64 = 100;
/// Claims of this node that a peer may take at once, by saying that it has claimed their keys first: more than two
/// honest nodes claim of the same keys in a partition.
const WINS: u64 = 1024;
/// The same a second on top.
const WINS_A_SECOND: u64 = 16;
const SECOND_US: u64 = 1_000_000;

/// The part of the loop that all questions of this node may take at each node, itself included: a tenth.
pub(super) const ASKING: u64 = 10;
/// The part of the loop that all peers' questions may take, divided by the peers: a fifth, twice what they ask if all
/// ask as much as this node may.
pub(super) const ANSWERING: u64 = 5;
/// The part of the loop that questions to peers' programs may take: a tenth.
pub(super) const ASKING_KERNELS: u64 = 10;
/// A question to a peer's programs: a packet from the daemon's socket.
pub(super) const KERNEL_NS: u64 = 5_000;
/// How much of a share may be spent at once: what it has in half a second.
const SHARE_BURST_NS: u64 = 500_000_000;

/// What so many questions cost, or their answers, with their messages.
pub(super) const fn asks_ns(asks: usize) -> u64 {
    let messages = asks.div_ceil(MESSAGE_ASKS) as u64;
    messages.saturating_mul(MESSAGE_NS).saturating_add(ASK_NS.saturating_mul(asks as u64))
}

/// A part of the loop's time that something may take.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Up to when it is paid, in nanoseconds of the monotonic clock.
    paid_ns: u64,
}

impl Share {
    /// Whether something is left of it.
    pub(super) const fn is_left(&self, now: Now) -> bool {
        self.paid_ns < now.monotonic_us.saturating_mul(1000).saturating_add(SHARE_BURST_NS)
    }

    /// When something is left of it, in microseconds.
    pub(super) const fn left_us(&self) -> u64 {
        self.paid_ns.saturating_sub(SHARE_BURST_NS) / 1000 + 1
    }

    /// Whether something would be left of it in `late_us` after so much work, if it is one in `part` of the loop.
    pub(super) const fn bears(&self, work_ns: u64, part: u64, late_us: u64, now: Now) -> bool {
        Self { paid_ns: self.after(work_ns, part, now) }.left_us() <= now.monotonic_us.saturating_add(late_us)
    }

    /// So much work is done.
    pub(super) const fn spend(&mut self, work_ns: u64, part: u64, now: Now) {
        self.paid_ns = self.after(work_ns, part, now);
    }

    const fn after(&self, work_ns: u64, part: u64, now: Now) -> u64 {
        let now_ns = now.monotonic_us.saturating_mul(1000);
        let from_ns = if self.paid_ns > now_ns { self.paid_ns } else { now_ns };
        from_ns.saturating_add(work_ns.saturating_mul(part))
    }
}

/// A token bucket, counted in millionths so that no time is lost by rounding.
#[derive(Debug)]
struct Bucket {
    left: u64,
    most: u64,
    a_second: u64,
    at_us: u64,
}

impl Bucket {
    const fn new(most: u64, a_second: u64, now: Now) -> Self {
        Self { left: most * SECOND_US, most, a_second, at_us: now.monotonic_us }
    }

    /// Takes so many tokens; false, and none are taken, if there are fewer.
    fn spend(&mut self, tokens: u64, now: Now) -> bool {
        let passed_us = now.monotonic_us.saturating_sub(self.at_us);
        self.at_us = now.monotonic_us;
        self.left = self.left.saturating_add(passed_us.saturating_mul(self.a_second)).min(self.most * SECOND_US);
        let left = self.left.checked_sub(tokens.saturating_mul(SECOND_US));
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }

    /// Takes so many tokens, as many as there are: whoever comes next finds none.
    const fn charge(&mut self, tokens: u64) {
        self.left = self.left.saturating_sub(tokens.saturating_mul(SECOND_US));
    }
}

/// What a peer may still send.
#[derive(Debug)]
pub(super) struct Budget {
    work: Bucket,
    changes: Bucket,
    nothings: Bucket,
    datagrams: Bucket,
    wins: Bucket,
}

impl Budget {
    pub(super) const fn new(now: Now) -> Self {
        Self {
            work: Bucket::new(WORK, WORK_A_SECOND, now),
            changes: Bucket::new(CHANGES, CHANGES_A_SECOND, now),
            nothings: Bucket::new(NOTHINGS, NOTHINGS_A_SECOND, now),
            datagrams: Bucket::new(DATAGRAMS, DATAGRAMS_A_SECOND, now),
            wins: Bucket::new(WINS, WINS_A_SECOND, now),
        }
    }

    /// Takes a message from the budget; false when it is spent.
    pub(super) fn message(&mut self, message: &Message, now: Now) -> bool {
        let content = match message {
            Message::Hello(_) => HELLO_NS,
            Message::Batch(claims) | Message::Snapshot(claims) => CLAIM_NS * claims.claims.len() as u64,
            Message::Ask(asks) => ASK_NS * asks.len() as u64,
            Message::Answer(answers) => ASK_NS * answers.len() as u64 + CLAIM_NS * message.claims() as u64,
            Message::Digest(_) | Message::Repair(_) => 0,
        };
        self.work.spend(MESSAGE_NS + content, now)
    }

    /// A claim of its was in conflict: that is known only afterwards.
    pub(super) const fn conflict(&mut self) {
        self.work.charge(CONFLICT_NS);
    }

    /// Takes from the budget that a claim of its counts instead of one of this node; false when that must stay. A new
    /// link does not fill it up.
    pub(super) fn may_win(&mut self, now: Now) -> bool {
        self.wins.spend(1, now)
    }

    /// So many numbers of this node's log are sent to it again.
    pub(super) const fn repair(&mut self, numbers: u64) {
        self.work.charge(NUMBER_NS.saturating_mul(numbers));
    }

    /// Takes a hello that says something new from the budget; false when it is to be heard later.
    pub(super) fn change(&mut self, now: Now) -> bool {
        self.changes.spend(1, now)
    }

    /// Takes a stream without a message from the budget; false when it is spent.
    pub(super) fn nothing(&mut self, now: Now) -> bool {
        self.nothings.spend(1, now)
    }

    /// Takes a datagram from the budget; false when it is spent.
    pub(super) fn datagram(&mut self, now: Now) -> bool {
        self.datagrams.spend(1, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(monotonic_us: u64) -> Now {
        Now { monotonic_us, unix_us: 0 }
    }

    #[test]
    fn a_bucket_allows_its_burst_and_its_rate_and_no_more() {
        let mut bucket = Bucket::new(100, 10, at(5));
        assert!((0..100).all(|_| bucket.spend(1, at(5))));
        assert!(!bucket.spend(1, at(5)));
        // For an hour at its rate, and then at twice that until the burst is used up.
        let mut bucket = Bucket::new(100, 10, at(0));
        assert!((1..36_000).all(|n| bucket.spend(1, at(100_000 * n))));
        let allowed = (1..1000).take_while(|n| bucket.spend(1, at(3_600_000_000 + 50_000 * n))).count();
        assert!((190..=210).contains(&allowed), "{allowed}");
    }

    #[test]
    fn a_share_allows_its_part_of_the_time_and_half_a_second_of_it_at_once() {
        // Work of 1 ms, a tenth: one in 10 ms, and 50 at once.
        let (mut share, mut done) = (Share::default(), 0);
        for us in (0..10_000_000).step_by(1000) {
            while share.is_left(at(us)) {
                share.spend(1_000_000, 10, at(us));
                done += 1;
            }
            assert!(share.left_us() > us && share.left_us() <= us + 10_001);
        }
        assert!((1050..=1051).contains(&done), "{done}");
        assert!(
            share.bears(1_000_000, 10, 20_000, at(10_000_000)) && !share.bears(3_000_000, 10, 20_000, at(10_000_000))
        );
    }

    #[test]
    fn what_is_refused_is_not_charged() {
        let mut bucket = Bucket::new(100, 10, at(0));
        assert!(!bucket.spend(101, at(0)) && bucket.spend(100, at(0)));
    }

    #[test]
    fn a_peer_that_has_everything_sent_again_and_again_has_nothing_left() {
        let digest = Message::Digest(crate::wire::Digest { settled: 0, must_answer: false });
        let mut budget = Budget::new(at(0));
        // A million numbers are a fifth of a second.
        let rounds = (0..100).take_while(|_| {
            budget.repair(1_000_000);
            budget.message(&digest, at(0))
        });
        assert_eq!(rounds.count(), 24);
        assert!(!budget.message(&digest, at(0)) && budget.message(&digest, at(1_000_000)));
    }
}
