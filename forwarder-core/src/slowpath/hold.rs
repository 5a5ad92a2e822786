//! Packets that wait until somebody says who owns their transaction. Bounded in packets, bytes and arrivals.

use std::collections::BTreeMap;

use super::packet::Message;

/// Packets held at once: what [`PER_SECOND`] lets in during a hold of twice the usual 100 ms.
pub const PACKETS: usize = 2048;
/// Bytes held at once, with what keeping them costs: the packets above at 4 KiB each.
pub const BYTES: usize = 8 << 20;
/// Packets held a second: each is a question to all peers. A call's replies overtake its claim far less often.
pub const PER_SECOND: u64 = 10_000;
/// Packets that may come at once after a pause: a tenth of a second's.
pub const BURST: u64 = PER_SECOND / 10;
/// Bytes that keeping one packet costs besides its own: the entry and its places in the indices.
pub const OVERHEAD: usize = 256;

const COST_US: u64 = 1_000_000 / PER_SECOND;

/// A packet that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) ifindex: u32,
    pub(super) packet: Vec<u8>,
    pub(super) message: Message,
    /// When it is let go.
    pub(super) due_us: u64,
    /// Only the branch is asked for: who owns the transaction is known.
    pub(super) of_branch: bool,
}

/// All that wait, by ticket: tickets rise, so the first one is due first.
#[derive(Debug)]
pub(super) struct Hold {
    waiting: BTreeMap<u64, Held>,
    bytes: usize,
    ticket: u64,
    /// Time that may be spent on arrivals, [`COST_US`] each.
    credit_us: u64,
    credited_us: u64,
}

impl Hold {
    pub(super) const fn new() -> Self {
        Self { waiting: BTreeMap::new(), bytes: 0, ticket: 0, credit_us: BURST * COST_US, credited_us: 0 }
    }

    /// Keeps a packet and gives its ticket.
    ///
    /// # Errors
    /// Gives the packet back where a bound is reached.
    pub(super) fn put(&mut self, held: Held, now_us: u64) -> Result<u64, Held> {
        let since_us = now_us.saturating_sub(self.credited_us);
        self.credited_us = self.credited_us.max(now_us);
        self.credit_us = self.credit_us.saturating_add(since_us).min(BURST * COST_US);
        let bytes = self.bytes + held.packet.len() + OVERHEAD;
        if self.credit_us < COST_US || self.waiting.len() >= PACKETS || bytes > BYTES {
            return Err(held);
        }
        self.credit_us -= COST_US;
        self.bytes = bytes;
        self.ticket += 1;
        self.waiting.insert(self.ticket, held);
        Ok(self.ticket)
    }

    /// What waits under a ticket.
    pub(super) fn message(&self, ticket: u64) -> Option<Message> {
        self.waiting.get(&ticket).map(|held| held.message)
    }

    /// Hands a packet out.
    pub(super) fn take(&mut self, ticket: u64) -> Option<Held> {
        let held = self.waiting.remove(&ticket)?;
        self.bytes -= held.packet.len() + OVERHEAD;
        Some(held)
    }

    /// What waits under a ticket, to be asked for once more.
    pub(super) fn waiting(&mut self, ticket: u64) -> Option<&mut Held> {
        self.waiting.get_mut(&ticket)
    }

    /// The packet that is due first, with its time.
    pub(super) fn first(&self) -> Option<(u64, u64)> {
        self.waiting.first_key_value().map(|(ticket, held)| (*ticket, held.due_us))
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}
