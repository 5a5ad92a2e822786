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
