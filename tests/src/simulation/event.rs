//! What happens in a simulation, one thing after the other.

use forwarder_core::node::Kind;

use super::{
    fault::Fault,
    host::KernelAnswer,
    kernel::Question,
    traffic::{Message, Step},
};

/// Something that happens.
#[derive(Debug)]
pub(super) enum Event {
    /// The loop of a daemon wakes up.
    Timer {
        host: usize,
        incarnation: u32,
    },
    /// A daemon that was stopped goes on.
    GoOn {
        host: usize,
        incarnation: u32,
    },
    /// A daemon looks at the sockets of its proxy.
    Look {
        host: usize,
        incarnation: u32,
    },
    /// A probe of the proxy comes back.
    Probe {
        host: usize,
        incarnation: u32,
    },
    Call(Call),
    Handshake(Call),
    Arrival(Flight),
    Ending(Ending),
    Fault(Fault),
    /// A hostile host says something.
    Malice {
        host: usize,
    },
    /// A client begins a transaction.
    Begin,
    /// A packet lands, for the `tries`th time.
    Packet {
        transaction: usize,
        step: Step,
        tries: u32,
    },
    /// A host's programs get a question through the tunnel.
    Question {
        from: usize,
        to: usize,
        question: Question,
    },
    /// A host's daemon gets the answer.
    Answer {
        host: usize,
        incarnation: u32,
        answer: KernelAnswer,
    },
    /// A host gets a packet: from the tunnel, or from its slow path.
    Delivery {
        host: usize,
        message: Message,
        way: Way,
    },
}

/// How a packet came to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The programs of the host where it landed kept it.
    Landed,
    /// They needed a daemon, and there was none to ask; or another host's did, and this one has none either.
    Unasked { is_relayed: bool },
    /// They had no room for another packet for the daemon.
    Overflowed,
    /// The programs of another host sent it.
    Tunnel { by: usize },
    /// A daemon has decided, of this host or of another one.
    Held { by: usize },
    /// The programs of a host without a daemon sent it to this one's daemon.
    Relayed { by: usize },
}

/// Bytes on their way over a link.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) session: u32,
    /// `None` is a datagram.
    pub(super) kind: Option<Kind>,
    pub(super) bytes: Vec<u8>,
}

/// A call, or its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) host: usize,
    pub(super) target: usize,
    pub(super) since_us: u64,
    pub(super) incarnations: [u32; 2],
}

/// The end of a link at `host`, of which it may have to notice that it is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) host: usize,
    pub(super) peer: usize,
    pub(super) session: u32,
    pub(super) why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Its idle timeout ends, unless it has heard something since then.
    Silence { since_us: u64 },
    /// That has passed while the daemon was stopped.
    Overdue,
    /// The other end has sent a reset.
    Reset,
    /// The other end has closed the link in order.
    Farewell,
}
