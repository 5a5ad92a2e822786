//! When a message is sent again: RFC 3261 §17.1.1.2, §17.1.2.2, §13.3.1.4, with T1 of 500 ms.

/// T1, in microseconds.
const T1_US: u64 = 500_000;
/// T2, in microseconds.
const T2_US: u64 = 4_000_000;
/// 64 times T1: how long anybody tries, in microseconds.
pub const TIMEOUT_US: u64 = 64 * T1_US;

/// A message that is sent until something stops it.
#[derive(Clone, Debug)]
pub struct Retransmission {
    /// What is sent.
    pub bytes: Vec<u8>,
    pause_us: u64,
    longest_us: u64,
    due_us: u64,
    until_us: u64,
}

impl Retransmission {
    /// Of a message that was sent just now; `longest` bounds the pause to T2, as for all but a request INVITE.
    #[must_use]
    pub const fn new(bytes: Vec<u8>, longest: bool, now_us: u64) -> Self {
        let longest_us = if longest { T2_US } else { TIMEOUT_US };
        Self { bytes, pause_us: T1_US, longest_us, due_us: now_us + T1_US, until_us: now_us + TIMEOUT_US }
    }

    /// Whether it is to be sent again now.
    pub fn is_due(&mut self, now_us: u64) -> bool {
        let is_due = now_us >= self.due_us && now_us < self.until_us;
        if is_due {
            self.pause_us = (self.pause_us * 2).min(self.longest_us);
            self.due_us = now_us + self.pause_us;
        }
        is_due
    }

    /// Whether its time is over.
    #[must_use]
    pub const fn is_over(&self, now_us: u64) -> bool {
        now_us >= self.until_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_t2_or_to_the_end() {
        let times = |longest| {
            let mut message = Retransmission::new(Vec::new(), longest, 0);
            (1..400).filter(|tenth| message.is_due(tenth * 100_000)).map(|tenth| tenth * 100).collect::<Vec<u64>>()
        };
        assert_eq!(times(false), [500, 1500, 3500, 7500, 15_500, 31_500]);
        assert_eq!(times(true), [500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    }
}
