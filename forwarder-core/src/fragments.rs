//! Splitting an IP packet into fragments (RFC 791 §3.2, RFC 8200 §4.5).

use anyhow::{Context as _, Result, ensure};
use forwarder_common::{checksum, hash, net};

/// More fragments follow, in the flags of IPv4.
const MORE: u16 = 0x2000;
/// Not to be fragmented, in the flags of IPv4.
const DONT: u16 = 0x4000;

/// The packet itself if it fits `mtu`, else its fragments, each of at most `mtu` bytes.
///
/// A packet that says it must not be fragmented is, all the same: this is done at its destination.
///
/// # Errors
/// It is no IP packet, or `mtu` has no room for eight bytes behind the headers.
pub fn split(packet: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>> {
    if packet.len() <= mtu {
        return Ok(vec![packet.to_vec()]);
    }
    let first = *packet.first().context("fragment a packet: it is empty")?;
    match first >> 4 {
        4 => split_v4(packet, usize::from(first & 0xf) * 4, mtu),
        6 => split_v6(packet, mtu),
        version => anyhow::bail!("fragment a packet: its IP version is {version}"),
    }
}

/// Payload bytes of all fragments but the last: a multiple of eight.
fn step(mtu: usize, headers: usize) -> Result<usize> {
    let step = mtu.saturating_sub(headers) & !7;
    ensure!(step >= 8, "fragment a packet to {mtu} bytes: its headers take {headers}");
    Ok(step)
}

fn split_v4(packet: &[u8], header: usize, mtu: usize) -> Result<Vec<Vec<u8>>> {
    ensure!((net::IPV4..=packet.len()).contains(&header), "fragment a packet: its header says {header} bytes");
    let (head, payload) = packet.split_at(header);
    let step = step(mtu, header)?;
    let mut parts = Vec::new();
    let before = u16::from_be_bytes([at(head, 6), at(head, 7)]);
    for (index, chunk) in payload.chunks(step).enumerate() {
        let is_last = (index + 1) * step >= payload.len();
        let offset = u16::try_from(index * step / 8)?;
        let more = if is_last { 0 } else { MORE };
        let flags = ((before & !DONT) + offset) | more;
        let mut part = head.to_vec();
        set(&mut part, 2, u16::try_from(header + chunk.len())?);
        set(&mut part, 6, flags);
        set(&mut part, 10, 0);
        let sum = part.chunks_exact(2).map(|pair| u64::from(u16::from_le_bytes([at(pair, 0), at(pair, 1)]))).sum();
        set(&mut part, 10, checksum::fold(sum).swap_bytes());
        part.extend(chunk);
        parts.push(part);
    }
    Ok(parts)
}

fn split_v6(packet: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>> {
    ensure!(packet.len() > net::IPV6, "fragment a packet: its header is cut off");
    let (head, payload) = packet.split_at(net::IPV6);
    let step = step(mtu, net::IPV6 + net::FRAGMENT)?;
    let next = at(head, 6);
    ensure!(next != 44, "fragment a packet: it is a fragment already");
    let id = identification(packet);
    let mut parts = Vec::new();
    for (index, chunk) in payload.chunks(step).enumerate() {
        let is_last = (index + 1) * step >= payload.len();
        let offset = u16::try_from(index * step)? | u16::from(!is_last);
        let mut part = head.to_vec();
        set(&mut part, 4, u16::try_from(net::FRAGMENT + chunk.len())?);
        if let Some(protocol) = part.get_mut(6) {
            *protocol = 44;
        }
        part.extend([next, 0]);
        part.extend(offset.to_be_bytes());
        part.extend(id);
        part.extend(chunk);
        parts.push(part);
    }
    Ok(parts)
}

/// An IPv6 identification from the packet itself: addresses, ports and checksum, which differ between datagrams.
fn identification(packet: &[u8]) -> [u8; 4] {
    let words = packet.chunks(8).take(8).map(|chunk| {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(chunk) {
            *to = *from;
        }
        u64::from_le_bytes(bytes)
    });
    let mixed = words.fold(0_u64, |mixed, word| (mixed ^ word).wrapping_mul(hash::GOLDEN).rotate_left(29));
    ((mixed >> 16) as u32).to_be_bytes()
}

fn at(bytes: &[u8], index: usize) -> u8 {
    bytes.get(index).copied().unwrap_or(0)
}

fn set(bytes: &mut [u8], index: usize, value: u16) {
    if let Some(place) = bytes.get_mut(index..index + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(v6: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = if v6 {
            let mut head = vec![0x60, 0, 0, 0, 0, 0, 17, 64];
            set(&mut head, 4, payload.len() as u16);
            head.extend([7; 32]);
            head
        } else {
            let mut head = vec![0x45, 0, 0, 0, 0, 9, 0x40, 0, 64, 17, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
            set(&mut head, 2, payload.len() as u16 + 20);
            head
        };
        packet.extend(payload);
        packet
    }

    proptest! {
        #[test]
        fn the_parts_fit_and_make_the_whole(v6: bool, length in 1..60_000_usize, mtu in 100..9000_usize) {
            let payload: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
            let whole = packet(v6, &payload);
            let parts = split(&whole, mtu).unwrap();
            let mut got = vec![0; length];
            for (index, part) in parts.iter().enumerate() {
                prop_assert!(part.len() <= mtu);
                if parts.len() == 1 {
                    prop_assert_eq!(part, &whole);
                    return Ok(());
                }
                let (offset, more, start) = if v6 {
                    let field = u16::from_be_bytes([part[42], part[43]]);
                    prop_assert_eq!((part[6], part[40]), (44, 17));
                    (usize::from(field & !7), field & 1 != 0, 48)
                } else {
                    let field = u16::from_be_bytes([part[6], part[7]]);
                    let sum = part[..20].chunks(2).map(|p| u64::from(u16::from_le_bytes([p[0], p[1]]))).sum();
                    prop_assert_eq!(checksum::fold(sum), 0);
                    prop_assert_eq!(field & DONT, 0);
                    (usize::from(field & 0x1fff) * 8, field & MORE != 0, 20)
                };
                prop_assert_eq!(more, index + 1 < parts.len());
                got[offset..offset + part.len() - start].copy_from_slice(&part[start..]);
            }
            prop_assert_eq!(got, payload);
        }
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        assert!(split(&[0; 2000], 100).is_err(), "no version");
        assert!(split(&[0x41; 2000], 100).is_err(), "a header shorter than any");
        assert!(split(&[0x60; 40], 39).is_err(), "a header and nothing else");
        assert!(split(&packet(false, &[0; 100]), 24).is_err(), "no room for eight bytes");
    }
}
