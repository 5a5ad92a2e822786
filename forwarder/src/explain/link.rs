//! From what a link type puts in front down to the IP packet: tags, labels and sessions are stepped over.

use forwarder_common::{
    ids::EtherType,
    net::{ETHERNET, VLAN},
};
use pcap_parser::Linktype;

use super::capture;

/// Raw IP as some systems number it in a pcap file ("raw" of BSD/OS and of OpenBSD).
const RAW_OTHER: [Linktype; 2] = [Linktype(12), Linktype(14)];
/// Linux cooked, version 2.
const SLL2: Linktype = Linktype(276);
/// Layers that one frame may have: more are damage, or an attempt to keep the reader busy.
const LAYERS_MAX: usize = 16;

/// What is behind a frame's link layer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inside {
    /// An IP packet, which begins here, and what is around it, from outside in.
    Ip(usize, Vec<&'static str>),
    /// A protocol that carries no IP, by name.
    Other(&'static str),
    /// A frame that this reader does not know or that is cut off: what stopped it.
    Unread(String),
}

/// What is behind the link layer of a captured frame.
pub(super) fn strip(link: Linktype, frame: &[u8]) -> Inside {
    let mut around = Vec::new();
    let found = match link {
        Linktype::ETHERNET => ethernet(frame, 0, &mut around),
        Linktype::LINUX_SLL => {
            around.push("Linux cooked");
            by_type(frame, be16(frame, 14), 16, &mut around)
        }
        SLL2 => {
            around.push("Linux cooked");
            by_type(frame, be16(frame, 0), 20, &mut around)
        }
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 => {
            around.push("raw IP");
            version(frame, 0)
        }
        raw if RAW_OTHER.contains(&raw) => {
            around.push("raw IP");
            version(frame, 0)
        }
        // The family's number differs between systems, and NULL has it in the order of the writer's; the packet says
        // its version itself.
        Linktype::NULL | Linktype::LOOP => {
            around.push("BSD loopback");
            version(frame, 4)
        }
        capture::UNKNOWN => Err(Inside::Unread("an interface that the file does not describe".to_owned())),
        Linktype(number) => Err(Inside::Unread(format!("link type {number}"))),
    };
    match found {
        Ok(at) => Inside::Ip(at, around),
        Err(inside) => inside,
    }
}

/// The packet in the Ethernet frame at `at`.
fn ethernet(frame: &[u8], at: usize, around: &mut Vec<&'static str>) -> Result<usize, Inside> {
    by_type(frame, be16(frame, at + 12), at + ETHERNET, around)
}

/// The packet at `at`, by the Ethernet type that was said of it.
fn by_type(
    frame: &[u8],
    ether_type: Option<u16>,
    mut at: usize,
    around: &mut Vec<&'static str>,
) -> Result<usize, Inside> {
    let mut ether_type = ether_type.ok_or_else(cut)?;
    for _ in 0..LAYERS_MAX {
        match ether_type {
            // 802.1Q, 802.1ad, and numbers that were used for outer tags before it.
            0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300 => {
                around.push("VLAN");
                ether_type = be16(frame, at + 2).ok_or_else(cut)?;
                at += VLAN;
            }
            0x8847 | 0x8848 => return labels(frame, at, around),
            0x8864 => return session(frame, at, around),
            // IEEE 802.3: a length; LLC follows, maybe with SNAP, which has an Ethernet type.
            0..0x0600 => {
                if frame.get(at..at + 6) != Some(&[0xaa, 0xaa, 3, 0, 0, 0]) {
                    return Err(Inside::Other("LLC"));
                }
                around.push("SNAP");
                ether_type = be16(frame, at + 6).ok_or_else(cut)?;
                at += 8;
            }
            number if number == EtherType::IPV4.0 || number == EtherType::IPV6.0 => return version(frame, at),
            number => return Err(without_ip(number)),
        }
    }
    Err(Inside::Unread(format!("more than {LAYERS_MAX} layers")))
}

/// What an Ethernet type stands for that carries no IP, or that is not known here.
fn without_ip(ether_type: u16) -> Inside {
    Inside::Other(match ether_type {
        0x0806 | 0x8035 => "ARP",
        0x8809 => "LACP",
        0x8863 => "PPPoE discovery",
        0x888e => "EAPOL",
        0x88cc => "LLDP",
        0x88f7 => "PTP",
        0x8902 => "CFM",
        0x9000 => "loopback test",
        _ => return Inside::Unread(format!("Ethernet type {ether_type:#06x}")),
    })
}

/// Behind MPLS labels (RFC 3032 §2.1); what they carry is not said, and told by its first bits (RFC 4928 §3).
fn labels(frame: &[u8], mut at: usize, around: &mut Vec<&'static str>) -> Result<usize, Inside> {
    around.push("MPLS");
    for _ in 0..LAYERS_MAX {
        let is_last = *frame.get(at + 2).ok_or_else(cut)? & 1 != 0;
        at += 4;
        if is_last {
            return match *frame.get(at).ok_or_else(cut)? >> 4 {
                // The control word of a pseudowire (RFC 4385 §3), mostly with Ethernet behind it.
                0 => ethernet(frame, at + 4, around),
                _ => version(frame, at),
            };
        }
    }
    Err(Inside::Unread(format!("more than {LAYERS_MAX} labels")))
}

/// Behind the header of a PPPoE session (RFC 2516 §4) and the protocol of PPP, which may have one byte (RFC 1661 §6.5).
fn session(frame: &[u8], at: usize, around: &mut Vec<&'static str>) -> Result<usize, Inside> {
    around.push("PPPoE");
    let first = *frame.get(at + 6).ok_or_else(cut)?;
    let (protocol, at) =
        if first & 1 != 0 { (u16::from(first), at + 7) } else { (be16(frame, at + 6).ok_or_else(cut)?, at + 8) };
    match protocol {
        0x0021 | 0x0057 => version(frame, at),
        0x8000.. => Err(Inside::Other("PPP control")),
        _ => Err(Inside::Unread(format!("PPP protocol {protocol:#06x}"))),
    }
}

/// An IP packet, if its version says so.
fn version(frame: &[u8], at: usize) -> Result<usize, Inside> {
    match *frame.get(at).ok_or_else(cut)? >> 4 {
        4 | 6 => Ok(at),
        version => Err(Inside::Unread(format!("IP version {version}"))),
    }
}

/// The big-endian number at `at`, if both its bytes are there.
pub(super) fn be16(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn cut() -> Inside {
    Inside::Unread("cut off in the link layer".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ether_type: &[u8], rest: &[u8]) -> Vec<u8> {
        [&[2; 12][..], ether_type, rest].concat()
    }

    const V4: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2];

    #[test]
    fn every_layer_is_stepped_over_and_named() {
        type Case<'a> = (&'a [u8], &'a [u8], usize, &'a [&'static str]);
        let cases: [Case<'_>; 8] = [
            (&[8, 0], &[], 14, &[]),
            (&[0x81, 0], &[0, 1, 8, 0], 18, &["VLAN"]),
            (&[0x91, 0], &[0, 1, 0x88, 0xa8, 0, 2, 0x81, 0, 0, 3, 8, 0], 26, &["VLAN", "VLAN", "VLAN"]),
            (&[0x88, 0x47], &[0, 0, 0, 64, 0, 0, 1, 64], 22, &["MPLS"]),
            (&[0x88, 0x47], &[&[0, 0, 1, 64, 0, 0, 0, 0], &[2; 12][..], &[8, 0]].concat(), 36, &["MPLS"]),
            (&[0x88, 0x64], &[0x11, 0, 0, 1, 0, 22, 0, 0x21], 22, &["PPPoE"]),
            (&[0x88, 0x64], &[0x11, 0, 0, 1, 0, 21, 0x21], 21, &["PPPoE"]),
            (&[0, 28], &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], 22, &["SNAP"]),
        ];
        for (ether_type, between, at, around) in cases {
            let frame = frame(ether_type, &[between, &V4].concat());
            assert_eq!(strip(Linktype::ETHERNET, &frame), Inside::Ip(at, around.to_vec()), "{ether_type:x?}");
        }
        for (link, head, name) in [
            (Linktype::LINUX_SLL, &[&[0; 14][..], &[8, 0]].concat(), "Linux cooked"),
            (SLL2, &[&[8, 0][..], &[0; 18]].concat(), "Linux cooked"),
            (Linktype::RAW, &Vec::new(), "raw IP"),
            (Linktype(12), &Vec::new(), "raw IP"),
            (Linktype::IPV4, &Vec::new(), "raw IP"),
            (Linktype::NULL, &vec![2, 0, 0, 0], "BSD loopback"),
            (Linktype::LOOP, &vec![0, 0, 0, 2], "BSD loopback"),
        ] {
            let frame = [head.as_slice(), &V4].concat();
            assert_eq!(strip(link, &frame), Inside::Ip(head.len(), vec![name]), "{link:?}");
        }
    }

    #[test]
    fn what_carries_no_ip_or_is_not_known_has_a_name() {
        let of = |ether_type: u16| strip(Linktype::ETHERNET, &frame(&ether_type.to_be_bytes(), &V4));
        assert_eq!(of(0x0806), Inside::Other("ARP"));
        assert_eq!(of(0x0026), Inside::Other("LLC"));
        assert_eq!(of(0x88b5), Inside::Unread("Ethernet type 0x88b5".to_owned()));
        assert_eq!(strip(Linktype(147), &V4), Inside::Unread("link type 147".to_owned()));
        let control = frame(&[0x88, 0x64], &[0x11, 0, 0, 1, 0, 6, 0xc0, 0x21, 1, 1, 0, 4]);
        assert_eq!(strip(Linktype::ETHERNET, &control), Inside::Other("PPP control"));
        let bits = frame(&[8, 0], &[0x75; 20]);
        assert_eq!(strip(Linktype::ETHERNET, &bits), Inside::Unread("IP version 7".to_owned()));
    }

    #[test]
    fn what_is_cut_is_said_to_be_and_no_chain_of_layers_is_endless() {
        let whole = frame(&[0x81, 0], &[&[0, 1, 0x88, 0x47, 0, 0, 0, 64, 0, 0, 1, 64][..], &V4].concat());
        for length in 0..26 {
            let inside = strip(Linktype::ETHERNET, whole.get(..length).unwrap());
            assert_eq!(inside, cut(), "{length}");
        }
        let tags = frame(&[0x81, 0], &[0, 1, 0x81, 0].repeat(100));
        assert_eq!(strip(Linktype::ETHERNET, &tags), Inside::Unread("more than 16 layers".to_owned()));
        assert_eq!(
            strip(Linktype::ETHERNET, &frame(&[0x88, 0x47], &[0; 400])),
            Inside::Unread("more than 16 labels".to_owned())
        );
    }
}
