//! Handshakes under way: who began them, how many there may be, and whom it is not worth to listen to.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use forwarder_common::ids::NodeId;
use quinn::{ClientConfig, Endpoint, Incoming};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;

use super::calls::Callee;
use super::handshake::{self, Failure, Verified};
use super::rates::{Rates, block};
use crate::foreign::Foreign;
use crate::identity::Identity;

/// Handshakes with callers under way at once; more are refused until some end.
const CALLERS: usize = 128;
/// As many of them may be with addresses that are neither seeds nor members.
const STRANGERS: usize = 64;
/// As many may be with one address, or one network of IPv6: a host that begins and never ends them keeps nobody else
/// out.
const OF_ONE_BLOCK: usize = 16;
/// From this many on, a caller of a known address must prove that it is its own, as all others must.
const UNPROVEN: usize = 16;

/// A handshake that has ended.
pub(super) struct Outcome {
    pub(super) address: SocketAddr,
    /// Whom this node called; `None` where it was called.
    pub(super) callee: Option<Callee>,
    pub(super) result: Result<Verified, Failure>,
}

/// What becomes of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Begun,
    /// It must prove its address first.
    Asked,
    /// There are too many.
    Refused,
}

#[derive(Debug)]
struct Running {
    address: SocketAddr,
    callee: Option<Callee>,
    is_stranger: bool,
    task: AbortHandle,
}

#[derive(Debug)]
pub(super) struct Handshakes {
    rates: Rates,
    set: JoinSet<Result<Verified, Failure>>,
    running: HashMap<Id, Running>,
    calls: BTreeMap<Callee, Id>,
    callers: usize,
    strangers: usize,
    by_block: BTreeMap<IpAddr, usize>,
}

impl Handshakes {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            rates: Rates::new(now),
            set: JoinSet::new(),
            running: HashMap::new(),
            calls: BTreeMap::new(),
            callers: 0,
            strangers: 0,
            by_block: BTreeMap::new(),
        }
    }

    /// Whether a node that has shown its certificate may have another connection.
    pub(super) fn links(&mut self, peer: NodeId) -> bool {
        self.rates.links(peer, Instant::now())
    }

    /// Calls somebody.
    pub(super) fn call(
        &mut self,
        callee: Callee,
        address: SocketAddr,
        endpoint: &Endpoint,
        client: &ClientConfig,
        identity: &Arc<Identity>,
    ) {
        let peer = match callee {
            Callee::Member(peer) => Some(peer),
            Callee::Seed(_) => None,
        };
        let call = endpoint.connect_with(client.clone(), address, &handshake::server_name(peer));
        let identity = Arc::clone(identity);
        let task = self.set.spawn(async move {
            match call {
                Ok(connecting) => handshake::finish(connecting, &identity).await,
                Err(error) => Err(Failure::Unreachable(Foreign::new(error))),
            }
        });
        self.calls.insert(callee, task.id());
        self.running.insert(task.id(), Running { address, callee: Some(callee), is_stranger: false, task });
    }

    /// Answers a caller, whose address is a seed's or a member's or else a stranger's.
    pub(super) fn answer(&mut self, incoming: Incoming, is_stranger: bool, identity: &Arc<Identity>) -> Answer {
        let (address, now) = (incoming.remote_address(), Instant::now());
        // Before anything is remembered or signed for it: the address may be another's.
        let is_proven = incoming.remote_address_validated();
        if !is_proven && (is_stranger || self.callers >= UNPROVEN || !self.rates.trusts(now)) {
            if !incoming.may_retry() || !self.rates.asks(now) {
                incoming.ignore();
                return Answer::Refused;
            }
            // An error is a caller that cannot be asked, which `may_retry` has ruled out.
            let _ = incoming.retry();
            return Answer::Asked;
        }
        let of_block = self.by_block.get(&block(address.ip())).copied().unwrap_or_default();
        let full = self.callers >= CALLERS || is_stranger && self.strangers >= STRANGERS;
        if full || of_block >= OF_ONE_BLOCK || !self.rates.begins(address.ip(), is_stranger, now) {
            if self.rates.says_no(now) {
                incoming.refuse();
            } else {
                incoming.ignore();
            }
            return Answer::Refused;
        }
        let identity = Arc::clone(identity);
        let task = self.set.spawn(async move {
            match incoming.accept() {
                Ok(connecting) => handshake::finish(connecting, &identity).await,
                Err(error) => Err(Failure::of(&error)),
            }
        });
        self.callers += 1;
        self.strangers += usize::from(is_stranger);
        *self.by_block.entry(block(address.ip())).or_default() += 1;
        self.running.insert(task.id(), Running { address, callee: None, is_stranger, task });
        Answer::Begun
    }

    /// Gives a call up; nothing more is heard of it.
    pub(super) fn abort(&mut self, callee: Callee) {
        if let Some(running) = self.calls.get(&callee).and_then(|id| self.running.get(id)) {
            running.task.abort();
        }
        if let Some(id) = self.calls.remove(&callee) {
            self.running.remove(&id);
        }
    }

    /// The next one that ends; `None` while none is under way, and for one that was given up.
    pub(super) async fn next(&mut self) -> Option<Option<Outcome>> {
        let (id, result) = match self.set.join_next_with_id().await? {
            Ok((id, result)) => (id, result),
            Err(error) => {
                (error.id(), Err(Failure::Unreachable(Foreign::new(format_args!("its handshake failed: {error}")))))
            }
        };
        let Some(Running { address, callee, is_stranger, .. }) = self.running.remove(&id) else { return Some(None) };
        match callee {
            Some(callee) => drop(self.calls.remove(&callee)),
            None => self.has_answered(address.ip(), is_stranger),
        }
        Some(Some(Outcome { address, callee, result }))
    }

    fn has_answered(&mut self, address: IpAddr, is_stranger: bool) {
        self.callers -= 1;
        self.strangers -= usize::from(is_stranger);
        if let Some(count) = self.by_block.get_mut(&block(address)) {
            *count -= 1;
            if *count == 0 {
                self.by_block.remove(&block(address));
            }
        }
    }
}
