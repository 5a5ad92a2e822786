//! Reads capture files packet by packet: pcap and pcapng, either byte order, in bounded memory.

use std::{fs::File, path::Path};

use anyhow::{Context as _, bail};
use pcap_parser::{
    Block, Linktype, PcapBlockOwned, PcapError, create_reader,
    traits::{PcapNGPacketBlock as _, PcapReaderIterator},
};

/// Bytes of the first read buffer: several of the largest IP packets.
const BUFFER: usize = 1 << 18;
/// Bytes of the largest record that is read; a longer one is taken for damage.
const RECORD_MAX: usize = 1 << 24;

/// One packet of a capture.
pub(super) struct Packet<'a> {
    /// Its number in the file, from 1, as Wireshark counts.
    pub(super) frame: u64,
    /// What was captured.
    pub(super) bytes: &'a [u8],
    /// Whether the packet was longer than what was captured.
    pub(super) snapped: bool,
    /// What `bytes` begins with.
    pub(super) link: Linktype,
}

/// Calls `each` for every packet of a file, in order.
///
/// # Errors
/// Fails where the file cannot be read on, after `each` has seen what came before, and with the first error of `each`.
pub(super) fn read(path: &Path, mut each: impl FnMut(&Packet<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("open {name}"))?;
    let mut reader = create_reader(BUFFER, file).map_err(|error| match error {
        PcapError::Eof => anyhow::anyhow!("read {name}: the file is empty"),
        PcapError::ReadError => anyhow::anyhow!("read {name}: it cannot be read; hint: it must be a file"),
        PcapError::BufferTooSmall
        | PcapError::UnexpectedEof
        | PcapError::Incomplete(_)
        | PcapError::HeaderNotRecognized
        | PcapError::NomError(..)
        | PcapError::OwnedNomError(..) => {
            anyhow::anyhow!("read {name}: neither a pcap nor a pcapng file; hint: write one with `tcpdump -w`")
        }
    })?;
    let mut links = Links::default();
    let mut frame = 0;
    let mut blocks = Blocks::default();
    loop {
        if !blocks.is_plausible(reader.data()) {
            return Err(anyhow::anyhow!("the record is damaged")).with_context(|| after(path, frame));
        }
        match reader.next() {
            Ok((length, block)) => {
                if let Some((bytes, original, link)) = links.packet(&block) {
                    frame += 1;
                    let snapped = bytes.len() < original;
                    each(&Packet { frame, bytes, snapped, link })?;
                }
                reader.consume(length);
            }
            Err(PcapError::Eof) => return Ok(()),
            Err(PcapError::Incomplete(_)) => more(reader.as_mut()).with_context(|| after(path, frame))?,
            Err(PcapError::BufferTooSmall) => grow(reader.as_mut()).with_context(|| after(path, frame))?,
            Err(PcapError::UnexpectedEof) => {
                return Err(anyhow::anyhow!("the file ends within a record; hint: it was cut short or is damaged"))
                    .with_context(|| after(path, frame));
            }
            Err(_) => return Err(anyhow::anyhow!("the record is damaged")).with_context(|| after(path, frame)),
        }
    }
}

fn after(path: &Path, frame: u64) -> String {
    format!("read {} after frame {frame}", path.display())
}

fn more(reader: &mut dyn PcapReaderIterator) -> anyhow::Result<()> {
    reader.refill().map_err(|_| anyhow::anyhow!("the file cannot be read on"))
}

fn grow(reader: &mut dyn PcapReaderIterator) -> anyhow::Result<()> {
    let wanted = reader.data().len().max(BUFFER).saturating_mul(2);
    if wanted > RECORD_MAX || !reader.grow(wanted) {
        bail!("the record claims more than {RECORD_MAX} bytes: it is damaged");
    }
    more(reader)
}

/// The blocks of a pcapng file, whose lengths the parser takes for those of blocks.
#[derive(Default)]
struct Blocks {
    /// Of the numbers of this section; `None` in a pcap file.
    is_big_endian: Option<bool>,
}

impl Blocks {
    /// What a section begins with, in either byte order.
    const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
    /// Type and length, and the length once more.
    const SHORTEST: u32 = 12;

    /// Whether the block at the start of `data` may be as long as it says, as far as it is there.
    fn is_plausible(&mut self, data: &[u8]) -> bool {
        let &[a, b, c, d, e, f, g, h, ref rest @ ..] = data else { return true };
        if [a, b, c, d] == Self::SECTION {
            self.is_big_endian = Some(rest.first() == Some(&0x1a));
        }
        let Some(is_big_endian) = self.is_big_endian else { return true };
        let length = [e, f, g, h];
        let length = if is_big_endian { u32::from_be_bytes(length) } else { u32::from_le_bytes(length) };
        length >= Self::SHORTEST
    }
}

/// The link types of a file: one for all of a pcap file, one for each interface of a section of a pcapng file.
#[derive(Default)]
struct Links(Vec<(Linktype, u32)>);

impl Links {
    /// Takes note of a block; if it holds a packet, gives its bytes, its length on the wire and its link type.
    fn packet<'a>(&mut self, block: &'a PcapBlockOwned<'_>) -> Option<(&'a [u8], usize, Linktype)> {
        match block {
            // The upper half of the field says how long the frames' checksums are.
            PcapBlockOwned::LegacyHeader(header) => self.0 = vec![(Linktype(header.network.0 & 0xffff), 0)],
            PcapBlockOwned::Legacy(packet) => return Some((packet.data, packet.origlen as usize, self.link(0))),
            PcapBlockOwned::NG(Block::SectionHeader(_)) => self.0.clear(),
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                self.0.push((interface.linktype, interface.snaplen));
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                return Some((packet.packet_data(), packet.origlen as usize, self.link(packet.if_id as usize)));
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                // Its captured length is not in the block: padding may follow a snapped packet.
                let snap = self.0.first().map_or(0, |(_, snap)| *snap as usize);
                let data = packet.packet_data();
                let data = data.get(..if snap == 0 { data.len() } else { snap }).unwrap_or(data);
                return Some((data, packet.origlen as usize, self.link(0)));
            }
            PcapBlockOwned::NG(_) => {}
        }
        None
    }

    /// An interface that the file does not describe has no known link type.
    fn link(&self, interface: usize) -> Linktype {
        self.0.get(interface).map_or(UNKNOWN, |(link, _)| *link)
    }
}

/// The link type of an interface that the file does not describe.
pub(super) const UNKNOWN: Linktype = Linktype(-1);
