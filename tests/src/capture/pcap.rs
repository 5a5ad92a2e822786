//! The little of pcap files that the lab's own captures need: Ethernet and Linux "any" links, microseconds.

use anyhow::{Result, bail};

use super::{Datagram, address};

/// Bytes before the first record.
const FILE_HEADER: usize = 24;
/// Bytes before each packet.
const RECORD_HEADER: usize = 16;

/// The UDP datagrams of a capture; other packets are left out. A last record that is still being written is, too.
pub(super) fn datagrams(file: &[u8]) -> Result<Vec<Datagram>> {
    let numbered = (1..).zip(records(file)?);
    Ok(numbered.filter_map(|(frame, (micros, ethertype, ip))| datagram(frame, micros, ethertype, ip)).collect())
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

fn datagram(frame: u64, micros: u64, ethertype: u16, ip: &[u8]) -> Option<Datagram> {
    let (source, destination, udp) = match ethertype {
        0x0800 if *ip.get(9)? == 17 && big(ip, 6)? & 0x3fff == 0 => {
            let header = usize::from(ip.first()? & 15) * 4;
            (address(ip.get(12..16)?)?, address(ip.get(16..20)?)?, ip.get(header..)?)
        }
        0x86dd if *ip.get(6)? == 17 => (address(ip.get(8..24)?)?, address(ip.get(24..40)?)?, ip.get(40..)?),
        _ => return None,
    };
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

    #[test]
    fn a_datagram_is_found_and_what_is_no_udp_is_not() -> Result<()> {
        let mut file = vec![0; FILE_HEADER];
        file.splice(20..24, 1u32.to_le_bytes());
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 10, 2, 192, 0, 2, 10]);
        frame.extend([0x13, 0xc4, 0x13, 0xc5, 0, 12, 0, 0, b'a', b'b', b'c', b'd']);
        for protocol in [17, 6] {
            frame.splice(23..24, [protocol]);
            for word in [7, 5, u32::try_from(frame.len())?, u32::try_from(frame.len())?] {
                file.extend(word.to_le_bytes());
            }
            file.extend(&frame);
        }
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
}
