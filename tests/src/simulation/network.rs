//! The network between the hosts: five regions, what a packet takes from one to another, what gets lost, what is cut.

use fastrand::Rng;

/// Names of the regions.
pub const REGIONS: [&str; 5] = ["eu-west", "eu-central", "us-east", "us-west", "asia"];

/// One-way delay between regions in microseconds, on the diagonal within one. Half of the round trips that large
/// providers publish for such places (Dublin, Frankfurt, Virginia, Oregon, Tokyo and Singapore), rounded.
const ONE_WAY_US: [[u64; 5]; 5] = [
    [500, 12_000, 36_000, 65_000, 105_000],
    [12_000, 500, 45_000, 72_000, 115_000],
    [36_000, 45_000, 500, 32_000, 82_000],
    [65_000, 72_000, 32_000, 500, 52_000],
    [105_000, 115_000, 82_000, 52_000, 5_000],
];
/// Part of the delay that jitter adds on average: a twentieth, exponentially distributed.
const JITTER: f64 = 0.05;
/// How long a QUIC receiver may hold an acknowledgement back (RFC 9000 §18.2, `max_ack_delay`).
const ACK_DELAY_US: u64 = 25_000;

/// Delay, loss and cuts.
#[derive(Debug)]
pub(super) struct Network {
    rng: Rng,
    hosts: usize,
    loss: f64,
    /// Since when, in virtual microseconds.
    cut_regions: [Option<u64>; REGIONS.len()],
    cut_hosts: Vec<Option<u64>>,
}

impl Network {
    /// A whole network between `hosts` hosts that loses a `loss`th part of the packets.
    pub(super) fn new(hosts: usize, loss: f64, seed: u64) -> Self {
        let rng = Rng::with_seed(seed);
        Self { rng, hosts, loss, cut_regions: [None; REGIONS.len()], cut_hosts: vec![None; hosts] }
    }

    /// The region of a host: equal shares, so that host 0 and its neighbours are in the first one.
    pub(super) const fn region(&self, host: usize) -> usize {
        host * REGIONS.len() / self.hosts
    }

    /// Cuts a region off from all others from a time on, or ends that.
    pub(super) fn cut_region(&mut self, region: usize, since_us: Option<u64>) {
        self.cut_regions[region] = since_us;
    }

    /// Cuts one host off from all others from a time on, or ends that.
    pub(super) fn cut_host(&mut self, host: usize, since_us: Option<u64>) {
        self.cut_hosts[host] = since_us;
    }

    /// Since when no packets pass between two hosts; `None`: they do.
    pub(super) fn cut_since_us(&self, a: usize, b: usize) -> Option<u64> {
        let (from, to) = (self.region(a), self.region(b));
        let regions = [from, to].map(|region| self.cut_regions[region].filter(|_| from != to));
        regions.into_iter().chain([self.cut_hosts[a], self.cut_hosts[b]]).flatten().min()
    }

    /// Whether packets pass between two hosts.
    pub(super) fn is_open(&self, a: usize, b: usize) -> bool {
        self.cut_since_us(a, b).is_none()
    }

    /// What one packet takes, in microseconds: packets overtake each other by its jitter.
    pub(super) fn one_way_us(&mut self, a: usize, b: usize) -> u64 {
        let base = ONE_WAY_US[self.region(a)][self.region(b)];
        base + self.exponential_us(base as f64 * JITTER)
    }

    /// Whether the network loses the next packet.
    pub(super) fn loses(&mut self) -> bool {
        self.loss > 0.0 && self.rng.f64() < self.loss
    }

    /// How long a QUIC sender takes to send a lost packet again for the `tries`th time: the time threshold of RFC 9002
    /// §6.1.2 (9/8 of a round trip) when later packets are acknowledged, then probe timeouts that double (§6.2.1).
    pub(super) fn repair_us(&mut self, a: usize, b: usize, tries: u32) -> u64 {
        let round_trip_us = self.one_way_us(a, b) + self.one_way_us(b, a);
        (round_trip_us * 9 / 8 + ACK_DELAY_US) << tries.saturating_sub(1).min(6)
    }

    fn exponential_us(&mut self, mean_us: f64) -> u64 {
        (-mean_us * (1.0 - self.rng.f64()).ln()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_those_of_the_wide_area_and_a_cut_region_is_whole_inside() {
        let mut network = Network::new(10, 0.01, 1);
        assert_eq!((network.region(0), network.region(1), network.region(9)), (0, 0, 4));
        let delays: Vec<u64> = (0..1000).map(|_| network.one_way_us(0, 9)).collect();
        assert!(delays.iter().all(|us| (105_000..200_000).contains(us)));
        let mean = delays.iter().sum::<u64>() / 1000;
        assert!((108_000..113_000).contains(&mean), "{mean}");
        network.cut_region(4, Some(7));
        assert!(!network.is_open(0, 9) && network.is_open(8, 9) && network.is_open(0, 2));
        network.cut_host(2, Some(9));
        assert_eq!((network.cut_since_us(2, 0), network.cut_since_us(2, 9)), (Some(9), Some(7)));
        network.cut_region(4, None);
        assert!(network.is_open(0, 9));
        let lost = (0..100_000).filter(|_| network.loses()).count();
        assert!((800..1200).contains(&lost), "{lost}");
    }
}
