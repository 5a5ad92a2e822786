//! The little of pcap files that the lab's own captures need: Ethernet and Linux "any" links, microseconds.

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::{Result, bail};

use super::datagram::{Datagram, address};

/// Bytes before the first record.
const FILE_HEADER: usize = 24;
/// Bytes before each packet.
const RECORD_HEADER: usize = 16;

/// The UDP datagrams of a capture, made whole where they came as IP fragments; other packets are left out. A last
/// record that is still being written is, too. A datagram's frame and time are those of its last fragment to come.
pub(super) fn datagrams(file: &[u8]) -> Result<Vec<Datagram>> {
    let mut reassembling = Reassembling::new();
    let mut found = Vec::new();
    for (frame, (micros, ethertype, ip)) in (1..).zip(records(file)?) {
        let Some(piece) = Piece::read(ethertype, ip) else { continue };
        let ends = (piece.source, piece.destination);
        let Some(udp) = reassemble(&mut reassembling, &piece) else { continue };
        found.extend(datagram(frame, micros, ends, &udp));
    }
    Ok(found)
}

/// Fragments seen so far of each datagram that is not whole yet: offsets and bytes.
type Reassembling = HashMap<(IpAddr, IpAddr, u32), Vec<(usize, Vec<u8>)>>;

/// What one IP packet carries of a UDP datagram.
struct Piece<'a> {
    source: IpAddr,
    destination: IpAddr,
    /// Identification, offset in bytes and whether more follow, of a fragment.
    part: Option<(u32, usize, bool)>,
    bytes: &'a [u8],
}

impl<'a> Piece<'a> {
    fn read(ethertype: u16, ip: &'a [u8]) -> Option<Self> {
        match ethertype {
            0x0800 if *ip.get(9)? == 17 => {
                let (header, total) = (usize::from(ip.first()? & 15) * 4, usize::from(big(ip, 2)?));
                let flags = big(ip, 6)?;
                let part = (u32::from(big(ip, 4)?), usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0);
                let (source, destination) = (address(ip.get(12..16)?)?, address(ip.get(16..20)?)?);
                let part = Some(part).filter(|_| flags & 0x3fff != 0);
                Some(Self { source, destination, part, bytes: ip.get(header..total)? })
            }
            0x86dd => {
                let total = 40 + usize::from(big(ip, 4)?);
                let (source, destination) = (address(ip.get(8..24)?)?, address(ip.get(24..40)?)?);
                let (part, start) = match (*ip.get(6)?, *ip.get(40)?) {
                    (17, _) => (None, 40),
                    (44, 17) => {
                        let (flags, high, low) = (big(ip, 42)?, big(ip, 44)?, big(ip, 46)?);
                        let id = u32::from(high) << 16 | u32::from(low);
                        (Some((id, usize::from(flags & 0xfff8), flags & 1 != 0)), 48)
                    }
                    _ => return None,
                };
                Some(Self { source, destination, part, bytes: ip.get(start..total)? })
            }
            _ => None,
        }
    }
}

/// The UDP datagram that a piece is or completes.
fn reassemble(reassembling: &mut Reassembling, piece: &Piece<'_>) -> Option<Vec<u8>> {
    let Some((id, offset, _)) = piece.part else { return Some(piece.bytes.to_vec()) };
    let key = (piece.source, piece.destination, id);
    let parts = reassembling.entry(key).or_default();
    parts.push((offset, piece.bytes.to_vec()));
    parts.sort_unstable();
    let mut whole = Vec::new();
    for (offset, bytes) in parts.iter() {
        if *offset != whole.len() {
            return None;
        }
        whole.extend(bytes);
    }
    // The datagram's own length says where it ends: the last fragment may be missing.
    let complete = whole.len() == usize::from(big(&whole, 4)?);
    complete.then(|| reassembling.remove(&key)).flatten().map(|_| whole)
}

/// The packets of a capture without their link's header.
pub(super) fn packets(file: &[u8]) -> Result<Vec<Vec<u8>>> {
    Ok(records(file)?.into_iter().map(|(_, _, ip)| ip.to_vec()).collect())
}

/// A packet with its time in microseconds and its EtherType.
type Record<'a> = (u64, u16, &'a [u8]);

fn records(file: &[u8]) -> Result<Vec<Record<'_>>> {
    let link = match little(file, 20) {
        Some(1) => Link::Ethernet,
        Some(276) => Link::Any,
        Some(other) => bail!("its link type is {other}, not Ethernet or Linux cooked v2"),
        None => return Ok(Vec::new()),
    };
    let mut found = Vec::new();
    let mut rest = file.get(FILE_HEADER..).unwrap_or_default();
    while let Some((micros, frame, after)) = record(rest) {
        let (ethertype, ip) = unwrap(link, frame).unwrap_or_default();
        found.push((micros, ethertype, ip));
        rest = after;
    }
    Ok(found)
}

fn unwrap(link: Link, frame: &[u8]) -> Option<(u16, &[u8])> {
    match link {
        Link::Ethernet => Some((big(frame, 12)?, frame.get(14..)?)),
        Link::Any => Some((big(frame, 0)?, frame.get(20..)?)),
    }
}

#[derive(Clone, Copy)]
enum Link {
    Ethernet,
    Any,
}

fn record(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let micros = u64::from(little(bytes, 0)?) * 1_000_000 + u64::from(little(bytes, 4)?);
    let length = usize::try_from(little(bytes, 8)?).ok()?;
    let packet = bytes.get(RECORD_HEADER..)?.get(..length)?;
    Some((micros, packet, bytes.get(RECORD_HEADER + length..)?))
}

fn datagram(frame: u64, micros: u64, (source, destination): (IpAddr, IpAddr), udp: &[u8]) -> Option<Datagram> {
    let payload = udp.get(8..usize::from(big(udp, 4)?))?.to_vec();
    Some(Datagram { frame, micros, source: (source, big(udp, 0)?), destination: (destination, big(udp, 2)?), payload })
}

fn little(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn big(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    /// A capture of Ethernet frames.
    fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut file = vec![0; FILE_HEADER];
        file.splice(20..24, 1u32.to_le_bytes());
        for frame in frames {
            let length = u32::try_from(frame.len()).unwrap_or_default();
            file.extend([7, 5, length, length].iter().flat_map(|word| word.to_le_bytes()));
            file.extend(frame);
        }
        file
    }

    /// An Ethernet frame with an IPv4 packet; `part` is the word of flags and offset.
    fn frame(protocol: u8, part: u16, bytes: &[u8]) -> Vec<u8> {
        let total = u16::try_from(20 + bytes.len()).unwrap_or_default();
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend([total, 77, part].iter().flat_map(|word| word.to_be_bytes()));
        frame.extend([64, protocol, 0, 0, 10, 9, 10, 2, 192, 0, 2, 10]);
        frame.extend(bytes);
        frame
    }

    #[test]
    fn a_datagram_is_found_and_what_is_no_udp_is_not() -> Result<()> {
        let udp = [0x13, 0xc4, 0x13, 0xc5, 0, 12, 0, 0, b'a', b'b', b'c', b'd'];
        let file = capture(&[frame(17, 0, &udp), frame(6, 0, &udp)]);
        let found = datagrams(&file)?;
        let [datagram] = found.as_slice() else { bail!("found {found:?}") };
        assert_eq!(
            (datagram.frame, datagram.micros, datagram.source.1, datagram.destination.1),
            (1, 7_000_005, 5060, 5061)
        );
        assert_eq!(datagram.payload, b"abcd");
        let cut = file.get(..file.len() - 1).context("cut")?;
        assert_eq!(datagrams(cut)?.len(), 1, "a half-written record is left out");
        Ok(())
    }

    #[test]
    fn fragments_are_one_datagram_in_any_order_and_nothing_while_one_is_missing() -> Result<()> {
        let mut udp = vec![0x13, 0xc4, 0x13, 0xc5, 0, 36, 0, 0];
        udp.extend(0..28);
        let more = |at: u16| if at < 2 { 0x2000 } else { 0 };
        let parts = (0..).zip(udp.chunks(16)).map(|(at, part)| frame(17, more(at) + at * 2, part));
        let parts: Vec<Vec<u8>> = parts.collect();
        let [first, second, last] = parts.as_slice() else { bail!("{} parts", parts.len()) };
        let whole = datagrams(&capture(&[last.clone(), first.clone(), second.clone()]))?;
        let [datagram] = whole.as_slice() else { bail!("found {whole:?}") };
        assert_eq!((datagram.frame, datagram.payload.as_slice()), (3, (0..28).collect::<Vec<u8>>().as_slice()));
        assert_eq!(datagrams(&capture(&[first.clone(), last.clone()]))?, []);
        Ok(())
    }
}
