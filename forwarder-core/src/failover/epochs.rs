//! Which epochs this node gives to the runs of its proxies.
//!
//! A claim carries one of sixteen epochs, and counts only while its owner says that the epoch is live. Each service has
//! one, and a service whose proxy restarts gets another: its claims are ineffective at once, those of the other
//! services are not. A number is given again only after all others, so that what was claimed under it is swept from
//! every table by then.

use forwarder_common::ids::{Epoch, Epochs};

/// Services with an epoch of their own; those beyond share them in turn, so that more than half of the sixteen rest.
pub const SHARES: usize = 7;
const NUMBERS: usize = 16;

/// The epochs under which claims are made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// By service, in the order of the configuration.
    pub services: Vec<Epoch>,
}

impl Given {
    /// The epochs whose claims count.
    #[must_use]
    pub fn live(&self) -> Epochs {
        self.services.iter().copied().collect()
    }
}

/// Gives out epochs.
#[derive(Debug)]
pub(super) struct Book {
    given: Given,
    /// When a number was retired last, counted in retirements; 0: never.
    retired: [u64; NUMBERS],
    retirements: u64,
    latest: Epoch,
    /// Peers may still hold claims of an earlier incarnation of this host under these.
    taken: Epochs,
    /// No maps told which epochs the earlier incarnations had.
    is_fresh: bool,
}

impl Book {
    /// Goes on with what the maps of an earlier daemon say. A service that has the epoch of one with which it does not
    /// share, since it is new in the configuration, gets one of its own, or that of the one with which it does.
    pub(super) fn resume(given: Given) -> Self {
        let latest = rested(given.live());
        let mut book = Self::new(given, latest);
        for service in 0..book.given.services.len() {
            let Some(epoch) = book.given.services.get(service).copied() else { continue };
            let mut before = book.given.services.iter().take(service).enumerate();
            if before.any(|(other, taken)| *taken == epoch && other % SHARES != service % SHARES) {
                let shared = service.checked_sub(SHARES).and_then(|first| book.given.services.get(first)).copied();
                let epoch = shared.unwrap_or_else(|| book.next());
                if let Some(own) = book.given.services.get_mut(service) {
                    *own = epoch;
                }
            }
        }
        book
    }

    /// Begins from `first` on, where no maps tell of an earlier daemon.
    pub(super) fn begin(services: usize, first: Epoch) -> Self {
        let given = Given { services: vec![first; services] };
        let mut book = Self { is_fresh: true, ..Self::new(given, first) };
        (1..services.min(SHARES)).for_each(|share| book.set_share(share));
        book
    }

    fn new(given: Given, latest: Epoch) -> Self {
        Self { given, retired: [0; NUMBERS], retirements: 0, latest, taken: Epochs::EMPTY, is_fresh: false }
    }

    pub(super) const fn given(&self) -> &Given {
        &self.given
    }

    /// The proxy of a service has restarted.
    pub(super) fn renew(&mut self, service: usize) {
        self.renew_share(service % SHARES);
    }

    /// A peer may hold claims that an earlier incarnation of this host made under these epochs; whether one that is in
    /// use had to be given up for that.
    pub(super) fn take(&mut self, seen: Epochs) -> bool {
        if !self.is_fresh {
            // The maps say what was claimed under them, and it still counts.
            return false;
        }
        let taken = seen.iter().fold(self.taken, Epochs::with);
        if taken == self.taken {
            // Said in each turn, and news once.
            return false;
        }
        self.taken = taken;
        let is_taken = |epoch: &Epoch| self.taken.contains(*epoch);
        let shares = self.given.services.iter().take(SHARES).enumerate();
        let clashes: Vec<usize> = shares.filter(|(_, epoch)| is_taken(epoch)).map(|(share, _)| share).collect();
        clashes.iter().for_each(|share| self.renew_share(*share));
        !clashes.is_empty()
    }

    fn renew_share(&mut self, share: usize) {
        if let Some(old) = self.given.services.get(share).copied() {
            self.retire(old);
        }
        self.set_share(share);
    }

    fn set_share(&mut self, share: usize) {
        let epoch = self.next();
        self.given.services.iter_mut().skip(share).step_by(SHARES).for_each(|service| *service = epoch);
    }

    /// The epoch that has rested longest, of those that no peer may know; in the order of the numbers among equals.
    fn next(&mut self) -> Epoch {
        let live = self.given.live();
        let after = |step: u64| Epoch::new(u64::from(self.latest.number()) + step);
        let rest = |epoch: &Epoch| self.retired.get(usize::from(epoch.number())).copied().unwrap_or_default();
        let free = (1..=NUMBERS as u64).map(after).filter(|epoch| !live.contains(*epoch));
        let unknown = free.clone().filter(|epoch| !self.taken.contains(*epoch)).min_by_key(rest);
        let epoch = unknown.or_else(|| free.min_by_key(rest)).unwrap_or_else(|| after(1));
        self.latest = epoch;
        epoch
    }

    fn retire(&mut self, epoch: Epoch) {
        self.retirements += 1;
        if let Some(retired) = self.retired.get_mut(usize::from(epoch.number())) {
            *retired = self.retirements;
        }
    }
}

/// The epoch behind which the most numbers in a row are not live. Where no order of the retirements is known, those
/// have rested longest: numbers are given in their order.
fn rested(live: Epochs) -> Epoch {
    let free = |epoch: Epoch| {
        let behind = (1..NUMBERS as u64).map(|step| Epoch::new(u64::from(epoch.number()) + step));
        behind.take_while(|next| !live.contains(*next)).count()
    };
    live.iter().max_by_key(|epoch| free(*epoch)).unwrap_or(Epoch::new(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(number: u64) -> Epoch {
        Epoch::new(number)
    }

    fn numbers(given: &Given) -> Vec<u8> {
        given.services.iter().map(|epoch| epoch.number()).collect()
    }

    fn given(numbers: &[u64]) -> Given {
        Given { services: numbers.iter().copied().map(epoch).collect() }
    }

    #[test]
    fn a_single_service_goes_round_all_sixteen_numbers() {
        let mut book = Book::begin(1, epoch(3));
        let mut seen = vec![numbers(book.given())];
        for _ in 0..16 {
            book.renew(0);
            seen.push(numbers(book.given()));
        }
        let expected: Vec<Vec<u8>> = (3..=19).map(|n| vec![n % 16]).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_restart_of_one_proxy_leaves_the_epochs_of_the_others() {
        let mut book = Book::begin(3, epoch(0));
        let before = book.given().clone();
        assert_eq!(before.live().iter().count(), 3, "each its own");
        book.renew(1);
        let after = book.given().clone();
        assert_eq!((after.services[0], after.services[2]), (before.services[0], before.services[2]));
        assert!(!before.live().contains(after.services[1]));
    }

    #[test]
    fn services_beyond_the_seventh_share_and_no_live_number_is_given_twice() {
        for services in [2, 7, 8, 40] {
            let mut book = Book::begin(services, epoch(14));
            for restart in 0..100 {
                let live = book.given().live();
                assert!(live.iter().count() <= SHARES);
                let service = restart * 5 % services;
                let old = book.given().services[service];
                book.renew(service);
                let given = book.given();
                assert!(!live.contains(given.services[service]) && !given.live().contains(old));
                let sharing = given.services.iter().skip(service % SHARES).step_by(SHARES);
                assert!(sharing.into_iter().all(|epoch| *epoch == given.services[service]));
            }
        }
    }

    #[test]
    fn a_number_rests_longest_before_it_is_given_again() {
        let mut book = Book::begin(2, epoch(0));
        let mut last_live = [0; 16];
        for restart in 1..200 {
            let before = book.given().live();
            before.iter().for_each(|epoch| last_live[usize::from(epoch.number())] = restart);
            book.renew(restart % 2);
            let fresh: Vec<Epoch> = book.given().live().iter().filter(|epoch| !before.contains(*epoch)).collect();
            let rested = |epoch: &Epoch| last_live[usize::from(epoch.number())];
            let waiting = (0..16).map(Epoch::new).filter(|epoch| !before.contains(*epoch) && !fresh.contains(epoch));
            let shortest = fresh.iter().map(rested).max().unwrap();
            assert_eq!(fresh.len(), 1);
            assert!(waiting.map(|epoch| rested(&epoch)).all(|other| other >= shortest), "restart {restart}");
        }
    }

    #[test]
    fn the_next_epoch_is_one_that_no_earlier_incarnation_had() {
        let table: [(u64, &[u64], u64); 5] = [
            (3, &[], 3),
            (15, &[15], 0),
            (3, &[3, 4], 5),
            (14, &[14, 15, 0, 2], 1),
            (7, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], 8),
        ];
        for (first, taken, expected) in table {
            let mut book = Book::begin(1, epoch(first));
            let changed = book.take(taken.iter().copied().map(epoch).collect());
            assert_eq!(numbers(book.given()), [expected as u8], "{first} {taken:?}");
            assert_eq!(changed, expected != first);
        }
    }

    #[test]
    fn over_the_maps_of_an_earlier_daemon_its_epochs_go_on() {
        let mut book = Book::resume(given(&[4, 5]));
        assert!(!book.take([epoch(4)].into_iter().collect()), "its claims still count");
        assert_eq!(*book.given(), given(&[4, 5]));
        book.renew(0);
        assert_eq!(numbers(book.given()), [6, 5]);
    }

    #[test]
    fn a_service_that_is_new_over_the_maps_of_an_earlier_daemon_gets_an_epoch_of_its_own() {
        // The maps have for a new one what another has; those beyond the seventh share with it.
        let table: [(&[u64], &[u8]); 6] = [
            (&[4, 4], &[4, 5]),
            (&[5, 1, 2, 3, 4, 6, 7, 1], &[5, 1, 2, 3, 4, 6, 7, 5]),
            (&[4, 9, 4, 4], &[4, 9, 10, 11]),
            (&[15, 15], &[15, 0]),
            (&[0, 1, 2, 3, 4, 5, 6, 0], &[0, 1, 2, 3, 4, 5, 6, 0]),
            (&[0, 1, 2, 3, 4, 5, 0, 0], &[0, 1, 2, 3, 4, 5, 6, 0]),
        ];
        for (before, expected) in table {
            assert_eq!(numbers(Book::resume(given(before)).given()), expected, "{before:?}");
        }
    }

    #[test]
    fn the_restart_of_a_proxy_that_had_anothers_epoch_ends_what_it_has_claimed() {
        let mut book = Book::resume(given(&[4, 4]));
        book.renew(0);
        assert!(!book.given().live().contains(epoch(4)));
    }

    #[test]
    fn without_an_order_the_numbers_in_the_longest_row_count_as_rested() {
        for (live, expected) in [(&[3, 1][..], 3), (&[1, 3], 3), (&[15, 0, 1], 1), (&[0, 2, 4, 6, 8, 10, 12], 12)] {
            assert_eq!(rested(given(live).live()), epoch(expected), "{live:?}");
        }
    }
}
