//! `forwarder explain`: what the forwarder reads in a capture, datagram by datagram.
//!
//! The full reader is the truth here; the fast path on the host, and with `--kernel` the loaded program, are held
//! against it. They may punt; an answer that differs is a defect of the forwarder, and the command fails.

mod capture;
mod frame;
mod line;
mod verify;

use std::{collections::BTreeMap, io::Write, path::PathBuf};

use anyhow::{Context as _, bail};
use forwarder_common::{
    abi::Explained,
    sip::{fast, full},
};
use pcap_parser::Linktype;

use crate::dataplane::Explainer;
use capture::Packet;
use frame::Found;
use line::Line;
use verify::Said;

/// What to explain, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// A pcap or pcapng file of Ethernet frames.
    pub file: PathBuf,
    /// One JSON object per datagram instead of text.
    pub json: bool,
    /// Ask the loaded kernel program as well; needs root.
    pub kernel: bool,
    /// Keys of the claim hash; zeros show keys that no cluster uses.
    pub hash_key: [u64; 2],
}

/// The kernel's fast path, asked frame by frame.
pub trait Kernel {
    /// Bytes of the longest frame that it takes.
    fn longest(&self) -> usize;

    /// What it finds in an Ethernet frame.
    ///
    /// # Errors
    /// The program could not be run.
    fn explain(&mut self, frame: &[u8]) -> anyhow::Result<Explained>;
}

impl Kernel for Explainer {
    /// A test run puts a frame into one page, with headroom and tail.
    fn longest(&self) -> usize {
        Self::LONGEST
    }

    fn explain(&mut self, frame: &[u8]) -> anyhow::Result<Explained> {
        Self::explain(self, frame)
    }
}

/// Prints a line for every UDP datagram of the file; with `options.kernel`, loads the program that is asked.
///
/// # Errors
/// Those of [`run_with`], and where the program cannot be loaded.
pub fn run(options: &Options, out: &mut dyn Write) -> anyhow::Result<()> {
    if !options.kernel {
        return run_with(options, None, out);
    }
    let mut program = Explainer::load(options.hash_key).context("ask the kernel; hint: run as root")?;
    run_with(options, Some(&mut program), out)
}

/// The same, asking `kernel`.
///
/// # Errors
/// Fails, after having printed what was readable, if the file is damaged or no Ethernet capture, or if the fast path or
/// the kernel answers other than the full reader; at once if `out` cannot be written or the program cannot be run.
pub fn run_with<'a>(
    options: &'a Options,
    kernel: Option<&'a mut (dyn Kernel + 'a)>,
    out: &'a mut (dyn Write + 'a),
) -> anyhow::Result<()> {
    let mut explain = Explain { options, kernel, out, counts: Counts::default() };
    if !options.json {
        writeln!(explain.out, "{}", line::HEAD).context("write the explanation")?;
    }
    let read = capture::read(&options.file, |packet| explain.packet(packet));
    if !options.json {
        writeln!(explain.out, "{}", explain.counts.summary()).context("write the explanation")?;
    }
    explain.out.flush().context("write the explanation")?;
    read?;
    explain.counts.check(&options.file)
}

struct Explain<'a> {
    options: &'a Options,
    kernel: Option<&'a mut (dyn Kernel + 'a)>,
    out: &'a mut (dyn Write + 'a),
    counts: Counts,
}

impl Explain<'_> {
    fn packet(&mut self, packet: &Packet<'_>) -> anyhow::Result<()> {
        if packet.link != Linktype::ETHERNET {
            *self.counts.foreign_links.entry(packet.link.0).or_default() += 1;
            return Ok(());
        }
        let line = match frame::locate(packet.bytes, packet.snapped) {
            Found::Other => return Ok(()),
            Found::Unreadable(why) => {
                self.counts.datagrams += 1;
                let line = Line::unreadable(packet.frame, why);
                self.with_kernel(line, packet, None)?
            }
            Found::Datagram(place) => {
                let payload = packet.bytes.get(place).unwrap_or_default();
                let message = full::read(payload);
                let fast_path = self.fast_path(packet.frame, payload, message.as_ref().ok());
                let line = Line::read(packet.frame, message, self.options.hash_key, fast_path);
                self.with_kernel(line, packet, message.as_ref().ok())?
            }
        };
        if self.options.json {
            serde_json::to_writer(&mut *self.out, &line).context("write the explanation")?;
            writeln!(self.out).context("write the explanation")
        } else {
            writeln!(self.out, "{line}").context("write the explanation")
        }
    }

    fn fast_path(&mut self, frame: u64, payload: &[u8], message: Option<&full::Message<'_>>) -> String {
        self.counts.datagrams += 1;
        self.counts.keyable += u64::from(message.is_some());
        let hash_key = self.options.hash_key;
        let said = match fast::read(payload, hash_key, false) {
            Ok(marks) => verify::compare(&marks.explained(), payload, message, hash_key),
            Err(why) => Said::Punts(why.outcome().name()),
        };
        self.counts.note(frame, &said);
        match said {
            Said::Agrees => {
                self.counts.fast += 1;
                "key".to_owned()
            }
            Said::Punts(outcome) => outcome.to_owned(),
            Said::Differs(_) => said.to_string(),
        }
    }

    fn with_kernel(
        &mut self,
        line: Line,
        packet: &Packet<'_>,
        message: Option<&full::Message<'_>>,
    ) -> anyhow::Result<Line> {
        let Some(kernel) = self.kernel.as_deref_mut() else { return Ok(line) };
        if packet.snapped {
            return Ok(line.with_kernel("not asked: snapped".to_owned()));
        }
        if packet.bytes.len() > kernel.longest() {
            return Ok(line.with_kernel(format!("not asked: longer than {} bytes", kernel.longest())));
        }
        let found =
            kernel.explain(packet.bytes).with_context(|| format!("ask the kernel about frame {}", packet.frame))?;
        let said = verify::compare(&found, packet.bytes, message, self.options.hash_key);
        self.counts.note(packet.frame, &said);
        Ok(line.with_kernel(said.to_string()))
    }
}

/// What was seen in the whole file.
#[derive(Default)]
struct Counts {
    datagrams: u64,
    keyable: u64,
    fast: u64,
    /// Frames about which the readers differ, and the first of them.
    differing: u64,
    first_differing: Option<u64>,
    /// Packets by link type that is not Ethernet.
    foreign_links: BTreeMap<i32, u64>,
}

impl Counts {
    fn note(&mut self, frame: u64, said: &Said) {
        if matches!(said, Said::Differs(_)) {
            self.differing += 1;
            self.first_differing.get_or_insert(frame);
        }
    }

    fn summary(&self) -> String {
        let Self { datagrams, keyable, fast, .. } = self;
        format!("{datagrams} UDP datagrams, {keyable} with a key, {fast} of them by the fast path")
    }

    fn check(&self, file: &std::path::Path) -> anyhow::Result<()> {
        let name = file.display();
        if let Some(frame) = self.first_differing {
            let number = self.differing;
            bail!(
                "explain {name}: {number} answers of the fast path are wrong, first at frame {frame}; hint: report it"
            );
        }
        if let Some((link, number)) = self.foreign_links.iter().next() {
            let link = capture::link_name(Linktype(*link));
            bail!(
                "explain {name}: {number} packets are {link}, not Ethernet; hint: capture on one interface, `-i eth0`"
            );
        }
        Ok(())
    }
}
