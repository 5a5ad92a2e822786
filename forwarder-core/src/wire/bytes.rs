//! Fields of messages as bytes, all big-endian. Lengths are compared before anything is allocated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::WireError;

/// The bytes of a message that are not read yet.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn left(&self) -> usize {
        self.0.len()
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(WireError::Length)?;
        self.0 = tail;
        Ok(*head)
    }

    /// The next `length` bytes, to be read by themselves.
    pub(super) fn part(&mut self, length: usize) -> Result<Self, WireError> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(WireError::Length)?;
        self.0 = tail;
        Ok(Self(head))
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// The count of items of so many bytes, which must be all that is left.
    pub(super) fn count(&mut self, item_bytes: usize) -> Result<usize, WireError> {
        let count = usize::from(self.u16()?);
        if self.left() == count * item_bytes { Ok(count) } else { Err(WireError::Length) }
    }

    /// A byte of flags, of which this version knows one.
    pub(super) fn flag(&mut self, flag: u8) -> Result<bool, WireError> {
        let flags = self.u8()?;
        if flags & !flag == 0 { Ok(flags != 0) } else { Err(WireError::Flags(flags)) }
    }

    pub(super) fn address(&mut self) -> Result<IpAddr, WireError> {
        match self.u8()? {
            4 => Ok(IpAddr::V4(Ipv4Addr::from(self.array::<4>()?))),
            6 => Ok(IpAddr::V6(Ipv6Addr::from(self.array::<16>()?))),
            family => Err(WireError::Family(family)),
        }
    }
    pub(super) fn socket(&mut self) -> Result<SocketAddr, WireError> {
        Ok(SocketAddr::new(self.address()?, self.u16()?))
    }
}

/// An address with its family: 4 or 6 (1 byte), then 4 or 16 bytes.
pub(super) fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            out.push(4);
            out.extend(address.octets());
        }
        IpAddr::V6(address) => {
            out.push(6);
            out.extend(address.octets());
        }
    }
}

/// An address as above, then a port.
pub(super) fn put_socket(out: &mut Vec<u8>, socket: SocketAddr) {
    put_address(out, socket.ip());
    out.extend(socket.port().to_be_bytes());
}
