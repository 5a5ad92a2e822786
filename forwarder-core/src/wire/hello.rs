//! Who a node is, said first on each link.

use std::net::{IpAddr, SocketAddr};

use forwarder_common::ids::Epoch;

use super::bytes::{Reader, put_address};
use super::error::WireError;
use crate::state::State;

/// In the place of an epoch that is not known.
const NO_EPOCH: u8 = 255;

/// The first message on each link, and again when the sender's epoch or state changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// One run of the sender's daemon, at random: the numbers of its claims begin anew with each.
    pub incarnation: u64,
    /// Rises with each hello of a incarnation: they may overtake each other.
    pub sequence: u32,
    /// The sender's epoch: its claims of another epoch are ineffective.
    pub epoch: Epoch,
    /// How the sender is.
    pub state: State,
    /// Where the sender takes encapsulated packets.
    pub underlay: IpAddr,
    /// Where the sender's links listen.
    pub listen: SocketAddr,
    /// The number of the sender's next claim.
    pub next: u64,
    /// The receiver's incarnation that the sender knows; 0 for none.
    pub your_incarnation: u64,
    /// The receiver's epoch when it was last heard of, in that incarnation or in one before; `None`: it never was.
    pub your_epoch: Option<Epoch>,
    /// The sender has all that the receiver sent in that incarnation below this number.
    pub have: u64,
}

impl Hello {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.incarnation.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        out.extend([self.epoch.number(), number(self.state)]);
        put_address(out, self.underlay);
        put_address(out, self.listen.ip());
        out.extend(self.listen.port().to_be_bytes());
        out.extend(self.next.to_be_bytes());
        out.extend(self.your_incarnation.to_be_bytes());
        out.push(self.your_epoch.map_or(NO_EPOCH, Epoch::number));
        out.extend(self.have.to_be_bytes());
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            incarnation: reader.u64()?,
            sequence: reader.u32()?,
            epoch: reader.epoch()?,
            state: state(reader.u8()?)?,
            underlay: reader.address()?,
            listen: SocketAddr::new(reader.address()?, reader.u16()?),
            next: reader.u64()?,
            your_incarnation: reader.u64()?,
            your_epoch: known_epoch(reader)?,
            have: reader.u64()?,
        })
    }
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

fn known_epoch(reader: &mut Reader<'_>) -> Result<Option<Epoch>, WireError> {
    match reader.u8()? {
        NO_EPOCH => Ok(None),
        number if number > 15 => Err(WireError::Epoch(number)),
        number => Ok(Some(Epoch::new(u64::from(number)))),
    }
}
