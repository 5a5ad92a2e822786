//! What a capture is read into.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One UDP datagram of a capture.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Datagram {
    /// The number of its frame in the capture, from 1.
    pub frame: u64,
    /// When it was captured, in microseconds since 1970.
    pub micros: u64,
    /// Where it came from.
    pub source: (IpAddr, u16),
    /// Where it went.
    pub destination: (IpAddr, u16),
    /// What it carried.
    pub payload: Vec<u8>,
}

impl Datagram {
    /// Whether its payload is a SIP message, not one inside a tunnel packet.
    #[must_use]
    pub fn is_sip(&self) -> bool {
        let line = self.payload.split(|byte| *byte == b'\r').next().unwrap_or_default();
        line.starts_with(b"SIP/2.0 ") || line.first().is_some_and(u8::is_ascii_uppercase) && line.ends_with(b" SIP/2.0")
    }

    /// The value of its first header of that name (long form), or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.payload);
        text.lines().skip(1).take_while(|line| !line.is_empty()).find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

/// An IPv4 or IPv6 address out of its bytes.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}
