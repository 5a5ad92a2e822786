//! Says a thing once a minute, however often it happens: who is refused must not be able to fill the log.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// The pause between two complaints about one address.
const PAUSE: Duration = Duration::from_secs(60);
/// Addresses remembered; while all are taken, others go unsaid and are only counted.
const ADDRESSES: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Complaints {
    said: BTreeMap<IpAddr, Instant>,
}

impl Complaints {
    /// Whether to speak about `address` at `now`; the ports it comes from do not matter.
    pub(super) fn may(&mut self, address: IpAddr, now: Instant) -> bool {
        self.said.retain(|_, at| now.saturating_duration_since(*at) < PAUSE);
        if self.said.contains_key(&address) || self.said.len() >= ADDRESSES {
            return false;
        }
        self.said.insert(address, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn each_address_is_named_once_a_minute_and_the_memory_is_bounded() {
        let mut complaints = Complaints::default();
        let now = Instant::now();
        let address = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(n));
        assert!(complaints.may(address(1), now));
        assert!(!complaints.may(address(1), now + PAUSE / 2));
        assert!(complaints.may(address(1), now + PAUSE));
        let spoken = (0..10_000).filter(|n| complaints.may(address(*n), now + PAUSE)).count();
        assert_eq!(spoken, ADDRESSES - 1);
    }
}
