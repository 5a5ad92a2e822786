//! Writes frames and captures for the tests of `explain`.

/// A file format.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Format {
    /// pcap, little endian.
    Pcap,
    /// pcap, big endian.
    PcapBig,
    /// pcapng with enhanced packet blocks, little endian.
    Pcapng,
    /// pcapng with simple packet blocks, big endian.
    PcapngSimple,
}

/// What a frame looks like layers its datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layers {
    /// IPv6, else IPv4.
    pub(crate) v6: bool,
    /// VLAN tags, 0..=2.
    pub(crate) tags: usize,
    /// Bytes of IPv4 options, a multiple of 4.
    pub(crate) options: usize,
    /// Bytes of padding behind the IP packet.
    pub(crate) padding: usize,
}

/// Plain IPv4.
pub(crate) const V4: Layers = Layers { v6: false, tags: 0, options: 0, padding: 0 };
/// Plain IPv6.
pub(crate) const V6: Layers = Layers { v6: true, ..V4 };

/// An Ethernet frame with a UDP datagram to port 5060.
pub(crate) fn frame(payload: &[u8], layers: Layers) -> Vec<u8> {
    let length = |more: usize| u16::try_from(payload.len() + more).unwrap().to_be_bytes();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in 0..layers.tags {
        frame.extend(if tag == 0 && layers.tags == 2 { [0x88, 0xa8, 0, 7] } else { [0x81, 0, 0, 42] });
    }
    if layers.v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(length(8));
        frame.extend([17, 64]);
        for last in [1, 10] {
            frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
    } else {
        frame.extend([8, 0, 0x45 + u8::try_from(layers.options / 4).unwrap(), 0]);
        frame.extend(length(28 + layers.options));
        frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 10]);
        frame.extend(vec![1; layers.options]);
    }
    frame.extend([0x13, 0xc5, 0x13, 0xc4]);
    frame.extend(length(8));
    frame.extend([0, 0]);
    frame.extend(payload);
    frame.extend(vec![b' '; layers.padding]);
    frame
}

/// A whole capture file of Ethernet frames.
pub(crate) fn capture(format: Format, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = head(format, 1);
    for frame in frames {
        record(format, frame, frame.len(), &mut file);
    }
    file
}

/// What stands before the packets, for one interface of a link type.
pub(crate) fn head(format: Format, link: u16) -> Vec<u8> {
    let word = |number: u32| word(format, number);
    let half = |number: u16| if big(format) { number.to_be_bytes() } else { number.to_le_bytes() };
    match format {
        Format::Pcap | Format::PcapBig => {
            [word(0xa1b2_c3d4).as_slice(), &half(2), &half(4), &word(0), &word(0), &word(65_535), &word(link.into())]
                .concat()
        }
        Format::Pcapng | Format::PcapngSimple => {
            let unknown_length = [0xff; 8];
            let section = [word(0x1a2b_3c4d).as_slice(), &half(1), &half(0), &unknown_length].concat();
            let interface = [half(link).as_slice(), &half(0), &word(0)].concat();
            [block(format, 0x0a0d_0d0a, &section), block(format, 1, &interface)].concat()
        }
    }
}

/// Appends a packet of which `bytes` were captured and that was `length` long.
pub(crate) fn record(format: Format, bytes: &[u8], length: usize, file: &mut Vec<u8>) {
    let word = |number: usize| word(format, u32::try_from(number).unwrap());
    let padding = vec![0; bytes.len().next_multiple_of(4) - bytes.len()];
    match format {
        Format::Pcap | Format::PcapBig => {
            file.extend([word(7), word(0), word(bytes.len()), word(length)].concat());
            file.extend(bytes);
        }
        Format::Pcapng => {
            let head = [word(0), word(0), word(7), word(bytes.len()), word(length)].concat();
            file.extend(block(format, 6, &[head.as_slice(), bytes, &padding].concat()));
        }
        Format::PcapngSimple => {
            file.extend(block(format, 3, &[word(length).as_slice(), bytes, &padding].concat()));
        }
    }
}

fn block(format: Format, kind: u32, body: &[u8]) -> Vec<u8> {
    let length = word(format, u32::try_from(body.len() + 12).unwrap());
    [word(format, kind).as_slice(), &length, body, &length].concat()
}

fn word(format: Format, number: u32) -> [u8; 4] {
    if big(format) { number.to_be_bytes() } else { number.to_le_bytes() }
}

const fn big(format: Format) -> bool {
    matches!(format, Format::PcapBig | Format::PcapngSimple)
}
