//! Holds batches back for [`NodeSettings::batch_delay_us`], as a slow network would, so that a test can show what asking is for.

use std::collections::VecDeque;

use forwarder_common::ids::NodeId;

#[cfg(doc)]
use super::NodeSettings;
use super::{Kind, Now, Output};

/// Most batches held back; those beyond leave at once.
const DELAYED_BATCHES: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Delay(VecDeque<(u64, Output)>);

impl Delay {
    /// Takes the batches out of `outputs` from index `from` on, to leave after `delay_us`.
    pub(super) fn hold(&mut self, outputs: &mut VecDeque<Output>, from: usize, delay_us: u64, now: Now) {
        if delay_us == 0 {
            return;
        }
        for output in outputs.split_off(from) {
            if matches!(output, Output::Send { kind: Kind::Batch, .. }) && self.0.len() < DELAYED_BATCHES {
                self.0.push_back((now.monotonic_us.saturating_add(delay_us), output));
            } else {
                outputs.push_back(output);
            }
        }
    }

    /// Puts what is due into `outputs`.
    pub(super) fn release(&mut self, outputs: &mut VecDeque<Output>, now: Now) {
        while self.due_us().is_some_and(|at| at <= now.monotonic_us) {
            outputs.extend(self.0.pop_front().map(|(_, output)| output));
        }
    }

    pub(super) fn due_us(&self) -> Option<u64> {
        self.0.front().map(|(at, _)| *at)
    }

    /// Drops what was to go to one peer: it was meant for the link that is gone.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.0.retain(|(_, output)| !matches!(output, Output::Send { to, .. } if *to == peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_delay_lets_batches_pass_and_holds_nothing_else_back() {
        let send = |kind| Output::Send { to: NodeId::new(1).unwrap(), message: Vec::new(), kind };
        let at = |monotonic_us| Now { monotonic_us, unix_us: 0 };
        let (mut delay, mut outputs) = (Delay::default(), VecDeque::from([send(Kind::Batch), send(Kind::Hello)]));
        outputs.extend(vec![send(Kind::Batch); DELAYED_BATCHES + 1]);
        outputs.push_back(send(Kind::Answer));
        delay.hold(&mut outputs, 1, 50, at(100));
        assert_eq!(outputs, [Kind::Batch, Kind::Hello, Kind::Batch, Kind::Answer].map(send));
        delay.release(&mut outputs, at(149));
        assert_eq!((outputs.len(), delay.due_us()), (4, Some(150)));
        delay.release(&mut outputs, at(150));
        assert_eq!((outputs.len(), delay.due_us()), (4 + DELAYED_BATCHES, None));
    }
}
