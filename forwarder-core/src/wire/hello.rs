//! Who a node is, said first on each link.
//!
//! After a fixed head come fields of type, length and value. A receiver skips types that it does not know, so later
//! daemons may say more without another version of the protocol.

use std::net::{IpAddr, SocketAddr};

use forwarder_common::ids::Epochs;

use super::bytes::{Reader, put_address, put_socket};
use super::error::WireError;
use crate::state::State;

/// Most services that a hello carries: with them it fits into one packet.
pub const HELLO_SERVICES: usize = 40;
/// Most values that must be equal that a hello carries.
pub const HELLO_EQUALS: usize = 8;

const UNDERLAY: u8 = 1;
const LISTEN: u8 = 2;
const SERVICES: u8 = 3;
const MUST_EQUAL: u8 = 4;
const PROXIES: u8 = 5;
/// Bytes of one value that must be equal.
const EQUAL_BYTES: usize = 9;
/// What is said of the proxies: they are silent. The other bits are of later daemons.
const SILENT: u8 = 1;

/// The first message on each link, and again when something in it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// One run of the sender's daemon, at random: the numbers of its claims begin anew with each.
    pub incarnation: u64,
    /// Rises with each change of what the sender says to all peers; hellos may overtake each other.
    pub sequence: u32,
    /// The sender's live epochs: its claims of other epochs are ineffective.
    pub epochs: Epochs,
    /// How the sender is.
    pub state: State,
    /// The number of the sender's next claim.
    pub next: u64,
    /// The receiver's incarnation that the sender knows; 0 for none.
    pub your_incarnation: u64,
    /// The receiver's epochs of which the sender may still hold claims, of that incarnation or earlier ones.
    pub your_epochs: Epochs,
    /// The sender has all that the receiver sent in that incarnation below this number.
    pub have: u64,
    /// Where the sender takes encapsulated packets.
    pub underlay: IpAddr,
    /// Where the sender's links listen.
    pub listen: SocketAddr,
    /// What the sender serves, at most [`HELLO_SERVICES`].
    pub services: Vec<Service>,
    /// What must be equal on all nodes of a cluster, at most [`HELLO_EQUALS`].
    pub must_equal: Vec<MustEqual>,
    /// A proxy of the sender does not answer, though its sockets are there. The sender may be up all the same.
    pub is_silent: bool,
}

/// A service, as peers are told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its address and port.
    pub address: SocketAddr,
    /// The IP protocol number of its transport: 17 for UDP.
    pub transport: u8,
    /// [`Service::AFFINITY_TRANSACTION`] or [`Service::AFFINITY_CALL`]; other values are of later daemons.
    pub affinity: u8,
}

/// A value that must be equal on all nodes of a cluster, as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MustEqual {
    /// [`MustEqual::HASH_KEY`], [`MustEqual::TIMERS`] or what later daemons say.
    pub what: u8,
    /// The hash.
    pub hash: u64,
}

impl Service {
    /// Each transaction has an owner of its own.
    pub const AFFINITY_TRANSACTION: u8 = 0;
    /// All transactions of a call have one owner.
    pub const AFFINITY_CALL: u8 = 1;
}

impl MustEqual {
    /// A check value of the key of the claims' hash.
    pub const HASH_KEY: u8 = 1;
    /// The SIP timers.
    pub const TIMERS: u8 = 2;
}

impl Hello {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.incarnation.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.epochs.bits().to_be_bytes());
        out.push(number(self.state));
        out.extend(self.next.to_be_bytes());
        out.extend(self.your_incarnation.to_be_bytes());
        out.extend(self.your_epochs.bits().to_be_bytes());
        out.extend(self.have.to_be_bytes());
        // What is empty or not so is left out.
        let optional = [!self.services.is_empty(), !self.must_equal.is_empty(), self.is_silent];
        out.push(2 + optional.into_iter().map(u8::from).sum::<u8>());
        put_field(out, UNDERLAY, |out| put_address(out, self.underlay));
        put_field(out, LISTEN, |out| put_socket(out, self.listen));
        if !self.services.is_empty() {
            put_field(out, SERVICES, |out| self.put_services(out));
        }
        if !self.must_equal.is_empty() {
            put_field(out, MUST_EQUAL, |out| self.put_equals(out));
        }
        if self.is_silent {
            put_field(out, PROXIES, |out| out.push(SILENT));
        }
    }

    fn put_services(&self, out: &mut Vec<u8>) {
        for service in self.services.iter().take(HELLO_SERVICES) {
            out.extend([service.transport, service.affinity]);
            put_socket(out, service.address);
        }
    }

    fn put_equals(&self, out: &mut Vec<u8>) {
        for equal in self.must_equal.iter().take(HELLO_EQUALS) {
            out.push(equal.what);
            out.extend(equal.hash.to_be_bytes());
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let incarnation = reader.u64()?;
        let sequence = reader.u32()?;
        let epochs = Epochs::from_bits(reader.u16()?);
        let state = state(reader.u8()?)?;
        let next = reader.u64()?;
        let your_incarnation = reader.u64()?;
        let your_epochs = Epochs::from_bits(reader.u16()?);
        let have = reader.u64()?;
        let Fields { underlay, listen, services, must_equal, is_silent } = Fields::decode(reader)?;
        let underlay = underlay.ok_or(WireError::Missing(UNDERLAY))?;
        let listen = listen.ok_or(WireError::Missing(LISTEN))?;
        Ok(Self {
            incarnation,
            sequence,
            epochs,
            state,
            next,
            your_incarnation,
            your_epochs,
            have,
            underlay,
            listen,
            services,
            must_equal,
            is_silent,
        })
    }
}

/// What comes behind the fixed head.
#[derive(Default)]
struct Fields {
    underlay: Option<IpAddr>,
    listen: Option<SocketAddr>,
    services: Vec<Service>,
    must_equal: Vec<MustEqual>,
    is_silent: bool,
}

impl Fields {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (mut fields, mut seen) = (Self::default(), [false; 256]);
        for _ in 0..reader.u8()? {
            let kind = reader.u8()?;
            let length = usize::from(reader.u16()?);
            let mut value = reader.part(length)?;
            if let Some(seen) = seen.get_mut(usize::from(kind))
                && std::mem::replace(seen, true)
            {
                return Err(WireError::Twice(kind));
            }
            match kind {
                UNDERLAY => fields.underlay = Some(value.address()?),
                LISTEN => fields.listen = Some(value.socket()?),
                SERVICES => {
                    while value.left() > 0 {
                        let (transport, affinity) = (value.u8()?, value.u8()?);
                        fields.services.push(Service { address: value.socket()?, transport, affinity });
                    }
                    fields.services.truncate(HELLO_SERVICES);
                }
                MUST_EQUAL if length.is_multiple_of(EQUAL_BYTES) => {
                    while value.left() > 0 {
                        fields.must_equal.push(MustEqual { what: value.u8()?, hash: value.u64()? });
                    }
                    fields.must_equal.truncate(HELLO_EQUALS);
                }
                MUST_EQUAL => return Err(WireError::Length),
                PROXIES => fields.is_silent = value.u8()? & SILENT != 0,
                // Of a later daemon.
                _ => continue,
            }
            if value.left() > 0 {
                return Err(WireError::Length);
            }
        }
        Ok(fields)
    }
}

fn put_field(out: &mut Vec<u8>, kind: u8, put: impl FnOnce(&mut Vec<u8>)) {
    let mut value = Vec::new();
    put(&mut value);
    out.push(kind);
    out.extend((value.len() as u16).to_be_bytes());
    out.extend(value);
}

const fn number(state: State) -> u8 {
    match state {
        State::Joining => 0,
        State::Up => 1,
        State::Draining => 2,
        State::ProxyDown => 3,
    }
}

pub(super) const fn state(number: u8) -> Result<State, WireError> {
    match number {
        0 => Ok(State::Joining),
        1 => Ok(State::Up),
        2 => Ok(State::Draining),
        3 => Ok(State::ProxyDown),
        number => Err(WireError::State(number)),
    }
}
