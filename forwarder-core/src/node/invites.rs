//! Which keys of this node's claims belong to one INVITE, and who of it still waits for a final reply.
//!
//! The claims of an INVITE must last as long as it may ring. The programs that make them see one message at a time, and
//! only make claims longer. Here the messages of one request key come together: the replies that the proxy sends, by
//! the server transactions that they are of, and the reply keys of its own requests. An INVITE has **ended** when the
//! proxy has sent a final reply and no server transaction waits for one. An INVITE that the proxy sends for itself has
//! no server transaction; it has ended when a 2xx was acknowledged, or the final replies of all branches were.
//!
//! Nothing is known of an INVITE whose claim was made before this daemon's start, and nothing is concluded of one whose
//! branches cannot all be told apart: their claims last as long as the programs have said. Bounded by the number of
//! claims that there may be, see [`Invites::new`].

use forwarder_common::hash::salted;
use hashbrown::HashTable;

/// Invites in one table: as in the store of claims, so that none ever grows for long.
const TABLE_INVITES: usize = 192;
/// Most branches of one INVITE, those of servers and of replies together.
const BRANCHES: usize = 64;

/// Which branch it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A server transaction that waits for its final reply.
    Server,
    /// A request of this node's, by its reply key.
    Reply,
    /// The same, whose final reply was acknowledged.
    Acknowledged,
}

#[derive(Clone, Copy, Debug)]
struct Branch {
    key: u64,
    role: Role,
}

/// What is known of one INVITE.
#[derive(Debug)]
struct Invite {
    request: u64,
    /// The end of its request key's claim, in microseconds of the monotonic clock.
    until_us: u64,
    /// Its branches: mostly one that waits and one that it was sent on by.
    first: [Option<Branch>; 2],
    more: Vec<Branch>,
    /// The proxy has answered somebody.
    is_answered: bool,
    /// Not all branches are known, or not all can be told apart.
    is_unclear: bool,
    /// As the module's head defines it.
    has_ended: bool,
}

/// The INVITEs whose claims this node has made since the daemon's start.
#[derive(Debug)]
pub(super) struct Invites {
    tables: Vec<HashTable<Invite>>,
    salt: u64,
    len: usize,
    /// Most INVITEs.
    capacity: usize,
    /// Branches beyond the first two of an INVITE, in all.
    more: usize,
    /// The table that is swept next.
    swept: usize,
}

impl Invites {
    /// INVITEs of at most `claims` claims: each has two at the least. As many branches beyond their first two are
    /// known.
    pub(super) fn new(claims: usize, salt: u64) -> Self {
        let capacity = claims.div_ceil(2);
        let tables = (0..capacity.div_ceil(TABLE_INVITES)).map(|_| HashTable::new()).collect();
        Self { tables, salt, len: 0, capacity, more: 0, swept: 0 }
    }

    /// An INVITE's request key is claimed anew, until `until_us`: what was known of it is over.
    pub(super) fn begin(&mut self, request: u64, until_us: u64) {
        let hash = salted(request, self.salt);
        self.forget(request);
        if self.len >= self.capacity {
            return;
        }
        let (at, salt) = (self.table_of(hash), self.salt);
        let invite = Invite {
            request,
            until_us,
            first: [None; 2],
            more: Vec::new(),
            is_answered: false,
            is_unclear: false,
            has_ended: false,
        };
        if let Some(table) = self.tables.get_mut(at) {
            table.insert_unique(hash, invite, |invite| salted(invite.request, salt));
            self.len += 1;
        }
    }

    /// The claim of its request key ends then.
    pub(super) fn set_end(&mut self, request: u64, until_us: u64) {
        if let Some(invite) = self.get_mut(request) {
            invite.until_us = until_us;
        }
    }

    /// The proxy has sent the INVITE on, or again, under this reply key.
    pub(super) fn sent_on(&mut self, request: u64, reply: u64) {
        let is_known = |branch: &Branch| branch.key == reply && branch.role != Role::Server;
        self.add(request, Branch { key: reply, role: Role::Reply }, is_known);
    }

    /// The proxy has sent a provisional reply of this server transaction; 0 for one that cannot be told from others.
    pub(super) fn provisional(&mut self, request: u64, server: u64) {
        if let Some(invite) = self.get_mut(request) {
            (invite.is_answered, invite.has_ended) = (true, false);
            invite.is_unclear |= server == 0;
        }
        let is_known = |branch: &Branch| branch.key == server && branch.role == Role::Server;
        self.add(request, Branch { key: server, role: Role::Server }, is_known);
    }

    /// The proxy has sent a final reply of this server transaction: whether the INVITE has ended by it.
    pub(super) fn answered(&mut self, request: u64, server: u64) -> bool {
        let Some(invite) = self.get_mut(request) else { return false };
        invite.is_answered = true;
        invite.is_unclear |= server == 0;
        let freed = invite.take_server(server);
        invite.has_ended = !invite.is_unclear && invite.branches().all(|branch| branch.role != Role::Server);
        let has_ended = invite.has_ended;
        self.more -= freed;
        has_ended
    }

    /// The proxy has acknowledged a final reply, in a message with that branch: whether the INVITE has ended by it.
    pub(super) fn acknowledged(&mut self, request: u64, branch: u64) -> bool {
        let Some(invite) = self.get_mut(request) else { return false };
        if invite.is_answered || invite.is_unclear || branch == 0 {
            return false;
        }
        let mut known = invite.branches_mut().filter(|known| known.role != Role::Server);
        match known.find(|known| known.key == branch) {
            Some(known) => known.role = Role::Acknowledged,
            //= https://www.rfc-editor.org/rfc/rfc3261#section-17.1.1.3
            //# The ACK request constructed by the client transaction MUST contain […] a single Via header field, and
            //# this MUST be equal to the top Via header field of the original request.
            // So this one is of a 2xx.
            None => {
                drop(known);
                invite.has_ended = true;
                return true;
            }
        }
        drop(known);
        let has_ended = invite.branches().all(|branch| branch.role == Role::Acknowledged);
        invite.has_ended |= has_ended;
        has_ended
    }

    /// Whether an INVITE has yet to end; `None`: it is not known.
    pub(super) fn is_waiting(&self, request: u64) -> Option<bool> {
        self.get(request).map(|invite| !invite.has_ended)
    }

    /// The reply keys of an INVITE.
    pub(super) fn replies(&self, request: u64) -> Vec<u64> {
        let invite = self.get(request);
        let branches = invite.into_iter().flat_map(Invite::branches).filter(|branch| branch.role != Role::Server);
        branches.map(|branch| branch.key).collect()
    }

    /// How many are known.
    #[cfg(test)]
    const fn len(&self) -> usize {
        self.len
    }

    /// Forgets those whose claim has ended, of the next tables, looking at about `budget` of them.
    pub(super) fn sweep(&mut self, now_us: u64, budget: usize) {
        let mut looks = 0;
        for _ in 0..self.tables.len() {
            if looks >= budget {
                return;
            }
            self.swept = (self.swept + 1) % self.tables.len();
            let Some(table) = self.tables.get_mut(self.swept) else { return };
            let before = table.len();
            looks += before + 1;
            let mut freed = 0;
            table.retain(|invite| {
                let stays = invite.until_us > now_us;
                freed += if stays { 0 } else { invite.more.len() };
                stays
            });
            self.len -= before - table.len();
            self.more -= freed;
            if table.len() < table.capacity() / 4 {
                let salt = self.salt;
                table.shrink_to(table.len() * 2, |invite| salted(invite.request, salt));
            }
        }
    }

    fn add(&mut self, request: u64, branch: Branch, is_known: impl Fn(&Branch) -> bool) {
        let room = self.more < self.capacity;
        let Some(invite) = self.get_mut(request) else { return };
        if invite.branches().any(is_known) {
            return;
        }
        if let Some(free) = invite.first.iter_mut().find(|branch| branch.is_none()) {
            *free = Some(branch);
        } else if room && invite.more.len() + invite.first.len() < BRANCHES {
            invite.more.push(branch);
            self.more += 1;
        } else {
            invite.is_unclear = true;
        }
    }

    fn forget(&mut self, request: u64) {
        let hash = salted(request, self.salt);
        let at = self.table_of(hash);
        let Some(table) = self.tables.get_mut(at) else { return };
        if let Ok(found) = table.find_entry(hash, |invite| invite.request == request) {
            let (invite, _) = found.remove();
            self.len -= 1;
            self.more -= invite.more.len();
        }
    }

    fn get(&self, request: u64) -> Option<&Invite> {
        let hash = salted(request, self.salt);
        self.tables.get(self.table_of(hash))?.find(hash, |invite| invite.request == request)
    }

    fn get_mut(&mut self, request: u64) -> Option<&mut Invite> {
        let hash = salted(request, self.salt);
        let at = self.table_of(hash);
        self.tables.get_mut(at)?.find_mut(hash, |invite| invite.request == request)
    }

    /// By the upper half of the hash; the tables themselves go by its two ends.
    fn table_of(&self, hash: u64) -> usize {
        (((hash >> 16 & 0xffff_ffff) * self.tables.len() as u64) >> 32) as usize
    }
}

impl Invite {
    fn branches(&self) -> impl Iterator<Item = &Branch> {
        self.first.iter().flatten().chain(&self.more)
    }

    fn branches_mut(&mut self) -> impl Iterator<Item = &mut Branch> {
        self.first.iter_mut().flatten().chain(&mut self.more)
    }

    /// A server transaction waits no more; how many branches beyond the first ones are gone by that.
    fn take_server(&mut self, server: u64) -> usize {
        let is_it = |branch: &Branch| branch.role == Role::Server && branch.key == server;
        for branch in &mut self.first {
            branch.take_if(|branch| is_it(branch));
        }
        let before = self.more.len();
        self.more.retain(|branch| !is_it(branch));
        before - self.more.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const L: u64 = 7;

    /// One INVITE.
    fn begun() -> Invites {
        let mut invites = Invites::new(100, 1);
        invites.begin(L, 100);
        invites
    }

    #[test]
    fn an_invite_ends_with_the_final_reply_of_the_last_server_transaction_that_waits() {
        let mut invites = begun();
        invites.provisional(L, 1);
        invites.sent_on(L, 101);
        invites.sent_on(L, 102);
        // A branch comes back to this node, as a call that crosses it twice, and is refused.
        invites.provisional(L, 2);
        assert!(!invites.answered(L, 2), "somebody else's branch");
        assert!(!invites.answered(L, 2), "and once more");
        assert!(!invites.acknowledged(L, 101), "and the proxy has acknowledged that");
        invites.provisional(L, 1);
        assert!(invites.answered(L, 1));
        assert_eq!(invites.replies(L), [101, 102]);
    }

    #[test]
    fn two_forks_of_which_one_is_refused_leave_the_other_ringing() {
        let mut invites = begun();
        invites.provisional(L, 1);
        invites.provisional(L, 2);
        assert!(!invites.answered(L, 1));
        assert!(invites.answered(L, 2));
        // What is answered at once waits for nobody.
        assert!(begun().answered(L, 1));
    }

    #[test]
    fn the_proxys_own_invite_ends_when_it_acknowledges_the_last_branch_or_a_2xx() {
        let mut invites = begun();
        invites.sent_on(L, 101);
        invites.sent_on(L, 102);
        assert!(!invites.acknowledged(L, 0), "a branch that nobody could read");
        assert!(!invites.acknowledged(L, 101));
        assert!(!invites.acknowledged(L, 101));
        assert_eq!(invites.is_waiting(L), Some(true));
        assert!(invites.acknowledged(L, 102));
        assert_eq!(invites.is_waiting(L), Some(false));
        let mut invites = begun();
        invites.sent_on(L, 101);
        assert!(invites.acknowledged(L, 103), "of a 2xx: it has a branch of its own");
        assert_eq!((invites.is_waiting(L), invites.is_waiting(L + 1)), (Some(false), None));
    }

    #[test]
    fn an_invite_that_rings_on_after_its_end_is_waited_for_again() {
        let mut invites = begun();
        invites.sent_on(L, 101);
        assert!(invites.answered(L, 1));
        invites.provisional(L, 2);
        invites.sent_on(L, 102);
        assert!(!invites.answered(L, 1), "sent again");
        assert!(invites.answered(L, 2));
        assert_eq!(invites.replies(L), [101, 102]);
    }

    #[test]
    fn nothing_is_concluded_of_an_invite_that_is_not_wholly_known() {
        let mut unknown = Invites::new(100, 1);
        unknown.provisional(L, 1);
        assert!(!unknown.answered(L, 1) && !unknown.acknowledged(L, 5), "its claim is of an earlier daemon's time");
        let mut without_branch = begun();
        without_branch.provisional(L, 0);
        assert!(!without_branch.answered(L, 1));
        let mut many = begun();
        (1..=BRANCHES as u64 + 1).for_each(|server| many.provisional(L, server));
        assert!(!(1..=BRANCHES as u64 + 1).any(|server| many.answered(L, server)));
        let mut again = many;
        again.begin(L, 200);
        assert!(again.answered(L, 1), "made anew");
    }

    #[test]
    fn neither_invites_nor_branches_grow_beyond_their_bounds_and_all_are_freed() {
        let mut invites = Invites::new(1000, 1);
        for request in 0..2000 {
            invites.begin(request, 100);
            (1..100).for_each(|server| invites.provisional(request, server));
        }
        assert_eq!((invites.len(), invites.more), (500, 500));
        (0..10).for_each(|_| invites.sweep(99, 64));
        assert_eq!(invites.len(), 500);
        invites.set_end(3, 101);
        (0..100).for_each(|_| invites.sweep(100, 64));
        assert_eq!(invites.len(), 1);
        (0..100).for_each(|_| invites.sweep(101, 64));
        assert_eq!((invites.len(), invites.more), (0, 0));
        assert!(size_of::<Invite>() <= 80);
    }

    proptest! {
        /// Whatever is sent in whatever order: an INVITE with an answered branch has ended if and only if none waits.
        #[test]
        fn an_invite_has_ended_if_and_only_if_it_was_answered_and_nobody_waits(
            steps in proptest::collection::vec((0..3_u64, 1..5_u64, 0..3_u8), 1..60)
        ) {
            let mut invites = Invites::new(100, 1);
            (0..3).for_each(|request| invites.begin(request, 100));
            let mut waiting: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
            let mut ended = BTreeSet::new();
            for (request, branch, what) in steps {
                let waiting = waiting.entry(request).or_default();
                match what {
                    0 => {
                        invites.provisional(request, branch);
                        waiting.insert(branch);
                        ended.remove(&request);
                    }
                    1 => invites.sent_on(request, 100 + branch),
                    _ => {
                        waiting.remove(&branch);
                        prop_assert_eq!(invites.answered(request, branch), waiting.is_empty());
                        if waiting.is_empty() {
                            ended.insert(request);
                        }
                    }
                }
                prop_assert_eq!(invites.is_waiting(request), Some(!ended.contains(&request)));
            }
        }
    }
}
