//! How much is sent to one node, and of one key: token buckets without a timer.
//!
//! A bucket is one word, the time up to which it is paid. Each packet moves that on by what it costs, and is refused
//! where it lies too far ahead (GCRA, ITU-T I.371). Zero is a bucket that nobody has used. Keys have no bucket of their
//! own: each has two cells of a table of fixed size, and is refused only where both are used up, so that two keys that
//! share one cell have another one each.

use crate::hash::{GOLDEN, SipHash};

/// Cells of keys in each of the two rows.
pub const KEYS: u32 = 4096;
/// Cells of sources of fragments in each of the two rows.
pub const SOURCES: u32 = 1024;
/// All cells: two rows of keys, then two of sources.
pub const CELLS: u32 = 2 * (KEYS + SOURCES);
/// What a cell may be ahead of the clock, in nanoseconds: a second of its rate comes at once.
pub const CELL_BURST_NS: u64 = 1_000_000_000;
/// The same of a node: more than the coarse clock's steps, and what comes at once when routes change.
pub const NODE_BURST_NS: u64 = 250_000_000;
/// What one CPU sends to a node before it looks at the bucket that all CPUs share, in nanoseconds of that bucket.
pub const CREDIT_NS: u64 = 250_000;

/// The part of a peer's fragments that one source may send, as its inverse.
const SOURCE_SHARE: u64 = 4;

/// What packets cost; zero is no bound. Made by [`Costs::new`] from rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Costs {
    /// A packet, of each of the two cells of its key, in nanoseconds.
    pub key_ns: u32,
    /// A packet, of its node's bucket, in nanoseconds.
    pub packet_ns: u32,
    /// A byte, of the same, in 1/1024 ns. A packet costs what is more.
    pub byte: u32,
    /// A packet that only its node's daemon can finish, of a second bucket of that node, in nanoseconds.
    pub slow_ns: u32,
}

/// Rates a second; 0 is no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rates {
    /// Packets of one key.
    pub key_packets: u32,
    /// Packets to one node.
    pub packets: u32,
    /// Bytes to one node.
    pub bytes: u64,
    /// Packets to one node that its daemon must finish: fragments, and what is relayed.
    pub slow_packets: u32,
}

impl Rates {
    /// Unless the configuration says otherwise. No transaction has as many packets; a node takes no more requests, and
    /// its daemon no more punted packets.
    pub const USUAL: Self = Self { key_packets: 200, packets: 200_000, bytes: 250_000_000, slow_packets: 15_000 };
}

impl Costs {
    /// What a packet costs so that no more than these rates come through.
    #[must_use]
    pub const fn new(rates: &Rates) -> Self {
        Self {
            key_ns: share(2 * SECOND_NS, rates.key_packets as u64),
            packet_ns: share(SECOND_NS, rates.packets as u64),
            byte: share(SECOND_NS << 10, rates.bytes),
            slow_ns: share(SECOND_NS, rates.slow_packets as u64),
        }
    }

    /// What a packet of so many bytes costs of its node's bucket, in nanoseconds.
    #[inline(always)] // a few instructions
    #[must_use]
    pub const fn packet(&self, bytes: u64) -> u64 {
        let (packet, bytes) = (self.packet_ns as u64, (self.byte as u64 * bytes) >> 10);
        if packet > bytes { packet } else { bytes }
    }

    /// What a fragment costs of each of the two cells of its source, in nanoseconds.
    #[inline(always)] // as above
    #[must_use]
    pub const fn source(&self) -> u64 {
        2 * SOURCE_SHARE * self.slow_ns as u64
    }
}

const SECOND_NS: u64 = 1_000_000_000;

/// `whole` for so many, rounded up, so that a bound is never nothing; 0 for none.
const fn share(whole: u64, many: u64) -> u32 {
    if many == 0 {
        return 0;
    }
    let part = whole.div_ceil(many);
    if part > u32::MAX as u64 { u32::MAX } else { part as u32 }
}

/// What becomes of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// It is paid up to this time.
    Set(u64),
    /// It is paid for so long more.
    Add(u64),
    /// It is used up: nothing is written.
    Refused,
}

/// Charges `cost_ns` to a bucket that is paid up to `paid_ns`.
///
/// One that is half used up is added to at once, for in a flood all CPUs come to it. Before that it is just written: of
/// two that do so at the same time one may be lost, and an instruction that locks costs what all else here does.
#[inline(always)] // a few compares
#[must_use]
pub const fn charge(paid_ns: u64, now_ns: u64, cost_ns: u64, burst_ns: u64) -> Charge {
    if paid_ns <= now_ns {
        Charge::Set(now_ns + cost_ns)
    } else if paid_ns - now_ns < burst_ns / 2 {
        Charge::Set(paid_ns + cost_ns)
    } else if paid_ns - now_ns < burst_ns {
        Charge::Add(cost_ns)
    } else {
        Charge::Refused
    }
}

/// Buckets that several may charge at the same time.
pub trait Buckets {
    /// Up to when a bucket is paid.
    fn paid_ns(&self, bucket: u32) -> u64;
    /// Writes that.
    fn set(&self, bucket: u32, paid_ns: u64);
    /// Adds to that, at once.
    fn add(&self, bucket: u32, ns: u64);

    /// Charges a bucket; false if it is used up.
    #[inline(always)] // few places
    fn pay(&self, bucket: u32, now_ns: u64, cost_ns: u64, burst_ns: u64) -> bool {
        match charge(self.paid_ns(bucket), now_ns, cost_ns, burst_ns) {
            Charge::Set(paid_ns) => self.set(bucket, paid_ns),
            Charge::Add(ns) => self.add(bucket, ns),
            Charge::Refused => return false,
        }
        true
    }

    /// Charges the first of two cells that is not used up; false if both are.
    #[inline(always)] // two places
    fn pay_either(&self, cells: [u32; 2], now_ns: u64, cost_ns: u64) -> bool {
        let [first, second] = cells;
        self.pay(first, now_ns, cost_ns, CELL_BURST_NS) || self.pay(second, now_ns, cost_ns, CELL_BURST_NS)
    }
}

/// The two cells of a key, by a number that is spread evenly, such as [`spread`] gives.
#[inline(always)] // a few instructions
#[must_use]
pub const fn key_cells(spread: u64) -> [u32; 2] {
    [(spread >> 40) as u32 & (KEYS - 1), KEYS + ((spread >> 52) as u32 & (KEYS - 1))]
}

/// The two cells of a source of fragments.
#[inline(always)] // as above
#[must_use]
pub const fn source_cells(spread: u64) -> [u32; 2] {
    let (first, second) = ((spread >> 40) as u32, (spread >> 52) as u32);
    [2 * KEYS + (first & (SOURCES - 1)), 2 * KEYS + SOURCES + (second & (SOURCES - 1))]
}

/// What a running hash of both keys has come to, spread evenly: one number for all messages of a transaction, without
/// the hash's end, which costs more than all else here.
#[inline(always)] // as above
#[must_use]
pub const fn spread_hash(hash: &SipHash) -> u64 {
    spread(hash.mixed())
}

/// Who pays for a fragment ([`crate::abi::Address::payer`]), under a key that nobody else knows, spread evenly.
#[inline(always)] // as above
#[must_use]
pub const fn spread_source(payer: u64, key: u64) -> u64 {
    spread(spread(payer ^ key) ^ key)
}

/// A number of which all upper bits depend on all of `x`.
#[inline(always)] // as above
#[must_use]
pub const fn spread(x: u64) -> u64 {
    let x = (x ^ (x >> 32)).wrapping_mul(GOLDEN);
    (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

const _: () = assert!(KEYS.is_power_of_two() && SOURCES.is_power_of_two());

#[cfg(test)]
mod tests {
    extern crate std;

    use core::cell::Cell;
    use std::{collections::BTreeSet, vec, vec::Vec};

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::abi::Address;

    struct Table(Vec<Cell<u64>>);

    impl Table {
        fn new() -> Self {
            Self(vec![Cell::new(0); CELLS as usize])
        }
    }

    impl Buckets for Table {
        fn paid_ns(&self, bucket: u32) -> u64 {
            self.0[bucket as usize].get()
        }

        fn set(&self, bucket: u32, paid_ns: u64) {
            self.0[bucket as usize].set(paid_ns);
        }

        fn add(&self, bucket: u32, ns: u64) {
            self.set(bucket, self.paid_ns(bucket) + ns);
        }
    }

    const RATES: Rates = Rates::USUAL;
    const MS: u64 = 1_000_000;

    proptest! {
        #[test]
        fn no_key_gets_more_than_its_rate_and_a_burst_whatever_comes_when(
            rate in 10_u32..100_000, pauses in vec(0_u64..20 * MS, 1..2000), key: u64, begin in 0_u64..1 << 60,
        ) {
            let (table, costs) = (Table::new(), Costs::new(&Rates { key_packets: rate, ..RATES }));
            let (mut now, mut sent) = (begin, 0_u64);
            for pause in &pauses {
                now += pause;
                sent += u64::from(table.pay_either(key_cells(spread(key)), now, costs.key_ns.into()));
            }
            let most = u64::from(rate) * (now - begin) / SECOND_NS + u64::from(rate) + 2;
            prop_assert!(sent <= most, "{sent} of {most}");
        }

        #[test]
        fn a_key_below_its_rate_is_never_refused(
            begin in 1_u64 << 40..1 << 60, key: u64, late in vec(0_u64..200 * MS, 1..1000),
        ) {
            let (table, costs) = (Table::new(), Costs::new(&RATES));
            // Each packet has its time, and is late by a fifth of a second at most.
            let mut times: Vec<u64> = late.iter().zip(0..).map(|(late, n)| begin + n * 10 * MS + late).collect();
            times.sort_unstable();
            for now in times {
                prop_assert!(table.pay_either(key_cells(spread(key)), now, costs.key_ns.into()));
            }
        }

        #[test]
        fn a_packet_costs_its_share_of_both_rates(
            packets in 1000_u32..10_000_000, bytes in 1_000_000_u64..10_000_000_000, length in 20_u64..65_536,
        ) {
            let cost = Costs::new(&Rates { packets, bytes, ..RATES }).packet(length);
            let (of_packets, of_bytes) = (SECOND_NS.div_ceil(packets.into()), SECOND_NS * length / bytes);
            prop_assert!(cost >= of_packets && cost + 1 >= of_bytes);
            // A byte's cost is rounded up by less than a thousandth of a nanosecond.
            prop_assert!(cost <= of_packets.max(of_bytes + length / 1024 + 1));
        }
    }

    #[test]
    fn a_flood_of_one_key_leaves_a_key_that_shares_a_cell_with_it_alone() {
        let costs = Costs::new(&RATES);
        let flooded = key_cells(spread(1));
        let shares = (2..).map(|key| key_cells(spread(key))).find(|cells| cells[0] == flooded[0]).unwrap();
        assert_ne!(shares[1], flooded[1]);
        let table = Table::new();
        let mut sent = 0;
        for ms in 0..10_000 {
            let now = (1 << 40) + ms * MS;
            for _ in 0..100 {
                sent += u64::from(table.pay_either(flooded, now, costs.key_ns.into()));
            }
            // A transaction with a message each twentieth of a second, and no other.
            assert!(ms % 50 != 0 || table.pay_either(shares, now, costs.key_ns.into()), "{ms}");
        }
        assert!((1900..=2300).contains(&sent), "{sent}");
    }

    #[test]
    fn a_hundred_thousand_transactions_and_their_retransmissions_meet_no_bound() {
        // Ten seconds of 20,000 packets a second, a transaction of seven messages within half a second each.
        let (table, costs) = (Table::new(), Costs::new(&RATES));
        for n in 0..200_000_u64 {
            let now = (1 << 40) + n * MS / 20;
            let transaction = n / 7;
            assert!(table.pay_either(key_cells(spread(transaction)), now, costs.key_ns.into()), "{n}");
        }
    }

    #[test]
    fn a_bound_of_nothing_costs_nothing_and_rates_have_their_costs() {
        assert_eq!(Costs::new(&Rates::default()), Costs::default());
        let costs = Costs::new(&RATES);
        assert_eq!(costs, Costs { key_ns: 10_000_000, packet_ns: 5000, byte: 4096, slow_ns: 66_667 });
        assert_eq!([0, 1250, 1251, 65_535].map(|bytes| costs.packet(bytes)), [5000, 5000, 5004, 262_140]);
        assert_eq!(costs.source(), 8 * 66_667);
        let slow = Costs::new(&Rates { key_packets: 1, packets: 1, bytes: 1, slow_packets: 1 });
        assert_eq!(
            slow,
            Costs { key_ns: 2_000_000_000, packet_ns: 1_000_000_000, byte: u32::MAX, slow_ns: 1_000_000_000 }
        );
    }

    #[test]
    fn cells_are_spread_evenly_and_the_rows_are_independent() {
        for (cells, many) in [(key_cells as fn(u64) -> [u32; 2], KEYS), (source_cells, SOURCES)] {
            let all: Vec<[u32; 2]> = (0..u64::from(many) * 16).map(|n| cells(spread(n))).collect();
            let mut counts = vec![0; CELLS as usize];
            all.iter().flatten().for_each(|cell| counts[*cell as usize] += 1);
            let used: Vec<i32> = counts.into_iter().filter(|count| *count != 0).collect();
            assert!(used.len() as u32 > 2 * many - many / 64 && used.iter().all(|count| *count < 64), "{}", used.len());
            // As good as no two keys have both cells in common.
            assert!(all.iter().collect::<BTreeSet<_>>().len() + all.len() / 64 > all.len());
        }
        let different = [(1, 7), (2, 7), (1, 8)].map(|(payer, key)| spread_source(payer, key));
        assert_eq!(different.iter().collect::<BTreeSet<_>>().len(), 3);
        let v6 = |net, host| Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, net, host, 0, 0, 0, 0, 0, 0, host]).payer();
        assert_eq!(v6(1, 1), v6(1, 2), "one /64 is one payer");
        let payers = [v6(1, 1), v6(2, 1), Address::v4([192, 0, 2, 1]).payer(), Address::v4([192, 0, 2, 2]).payer()];
        assert_eq!(payers.iter().collect::<BTreeSet<_>>().len(), 4);
    }
}
