//! What a call of the node leads to: outputs in their order, and counters.

use std::collections::VecDeque;

use forwarder_common::ids::NodeId;

use super::counters::CoreCounters;
use super::output::{Command, Kind, MapWrite, Output};
use crate::failover::Introduction;
use crate::wire::Message;

#[derive(Debug, Default)]
pub(super) struct Effects {
    outputs: VecDeque<Output>,
    pub(super) counters: CoreCounters,
}

impl Effects {
    pub(super) fn send(&mut self, to: NodeId, message: &Message, kind: Kind) {
        self.outputs.push_back(Output::Link(Command::Send { to, message: message.encode(), kind }));
    }

    /// Sends the same to several peers.
    pub(super) fn send_to_all(&mut self, peers: &[NodeId], message: &Message, kind: Kind) {
        let message = message.encode();
        for peer in peers {
            self.outputs.push_back(Output::Link(Command::Send { to: *peer, message: message.clone(), kind }));
        }
    }

    pub(super) fn introduced(&mut self, peer: NodeId, said: Introduction) {
        self.outputs.push_back(Output::Introduced { peer, said });
    }

    pub(super) fn write(&mut self, write: MapWrite) {
        self.outputs.push_back(Output::Map(write));
    }

    pub(super) fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(super) fn pop(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.outputs.is_empty()
    }
}
