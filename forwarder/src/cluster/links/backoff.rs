//! Pauses that double, with jitter, so that hosts that failed together do not return together.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// First pause before somebody is called again.
pub const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest pause before somebody is called again.
pub const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// How long a peer that broke the protocol is kept out the first time.
const PENALTY_FIRST: Duration = Duration::from_secs(1);
/// How long it is kept out at most.
const PENALTY_LONGEST: Duration = Duration::from_secs(60);

/// A pause that doubles with each failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn of_calls() -> Self {
        Self { first: RETRY_FIRST, longest: RETRY_LONGEST, next: RETRY_FIRST }
    }

    pub(super) fn of_penalties() -> Self {
        Self { first: PENALTY_FIRST, longest: PENALTY_LONGEST, next: PENALTY_FIRST }
    }

    /// The pause after one more failure: between half and all of twice the last one.
    pub(super) fn fail(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        jittered(pause)
    }

    pub(super) fn succeed(&mut self) {
        self.next = self.first;
    }
}

/// Between half and all of `pause`.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + 0.5 * random())
}

/// A number in 0.0..1.0 that differs from call to call and from host to host.
fn random() -> f64 {
    // Each `RandomState` has other keys; nobody gains anything by guessing a pause.
    (RandomState::new().hash_one(()) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_limit_and_start_again() {
        let mut backoff = Backoff::of_calls();
        let mut expected = RETRY_FIRST;
        for _ in 0..12 {
            let pause = backoff.fail();
            assert!(pause >= expected / 2 && pause <= expected, "{pause:?} for {expected:?}");
            expected = (expected * 2).min(RETRY_LONGEST);
        }
        backoff.succeed();
        assert!(backoff.fail() <= RETRY_FIRST);
    }
}
