//! Questions to the kernel over netlink that are answered at once, without a runtime.

use anyhow::{Context as _, Result, bail};
use rtnetlink::{
    packet_core::{
        NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
        NetlinkSerializable,
    },
    sys::{Socket, SocketAddr},
};

/// Bytes that are read at a time: as many as the kernel puts into one part of an answer.
pub(crate) const PART: usize = 32 * 1024;

/// A socket to the kernel, of the network namespace of the thread that has opened it.
pub(crate) struct Kernel {
    socket: Socket,
    sequence: u32,
}

impl Kernel {
    /// Opens it for a protocol of linux/netlink.h.
    ///
    /// # Errors
    /// The kernel does not speak that protocol.
    pub(crate) fn open(protocol: isize) -> Result<Self> {
        let mut socket = Socket::new(protocol).context("open a netlink socket")?;
        socket.bind_auto().context("bind a netlink socket")?;
        socket.connect(&SocketAddr::new(0, 0)).context("connect a netlink socket to the kernel")?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks, and reads the answer to its end. `flags`, `NLM_F_DUMP` or `NLM_F_ACK`, make the kernel end it.
    ///
    /// # Errors
    /// The kernel refuses, or answers what cannot be read.
    pub(crate) fn ask<Q: NetlinkSerializable, A: NetlinkDeserializable>(
        &mut self,
        question: Q,
        flags: u16,
    ) -> Result<Vec<A>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        (header.flags, header.sequence_number) = (NLM_F_REQUEST | flags, self.sequence);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).context("ask the kernel over netlink")?;
        self.answer()
    }

    fn answer<A: NetlinkDeserializable>(&self) -> Result<Vec<A>> {
        let (mut buffer, mut answer) = (Vec::with_capacity(PART), Vec::new());
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0).context("wait for an answer of the kernel")?;
            for message in messages(&buffer) {
                let message = message?;
                // What is left of an answer that was not read to its end.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                #[expect(clippy::wildcard_enum_match_arm, reason = "netlink-packet-core may add payloads")]
                match message.payload {
                    NetlinkPayload::InnerMessage(part) => answer.push(part),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io().into()),
                    NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(answer),
                    _ => bail!("read an answer of the kernel: it is of no known kind"),
                }
            }
        }
    }
}

/// The messages in what was received at once.
pub(crate) fn messages<A: NetlinkDeserializable>(bytes: &[u8]) -> impl Iterator<Item = Result<NetlinkMessage<A>>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = NetlinkMessage::deserialize(rest);
        // Messages begin at multiples of four bytes. Behind one whose length makes no sense there is nothing to read.
        let length = NetlinkBuffer::new_checked(rest).map(|buffer| buffer.length() as usize).ok();
        rest = length.and_then(|length| rest.get(length.next_multiple_of(4)..)).unwrap_or_default();
        Some(message.context("read an answer of the kernel"))
    })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::RouteNetlinkMessage;

    use super::*;

    #[test]
    fn what_cannot_be_read_ends_the_messages() {
        for bytes in [&[][..], &[1, 2, 3], &[200, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            let read = || messages::<RouteNetlinkMessage>(bytes);
            assert_eq!(read().count(), usize::from(!bytes.is_empty()));
            assert!(read().all(|message| message.is_err()));
        }
    }
}
