//! `forwarder explain`: what the forwarder reads in a capture, datagram by datagram.
//!
//! The full reader is the truth here; the fast path on the host, and with `--kernel` the loaded program, are held
//! against it. They may punt; an answer that differs is a defect of the forwarder, and the command fails.

mod capture;
mod datagram;
mod line;
mod link;
mod verify;

use std::{collections::BTreeMap, fmt::Write as _, io::Write, path::PathBuf};

use anyhow::{Context as _, bail};
use forwarder_common::{
    abi::Explained,
    sip::{fast, full},
};
use pcap_parser::Linktype;

use crate::dataplane::Explainer;
use capture::Packet;
use datagram::{Around, Datagram, Found, Opener};
use line::Line;
use verify::Said;

/// What to explain, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// A pcap or pcapng file, of any link type that carries IP on edges.
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
/// Fails, after having printed what was readable, if the file is damaged, if it has frames that are not read and no
/// datagram at all, or if the fast path or the kernel answers other than the full reader; at once if `out` cannot be
/// written or the program cannot be run.
pub fn run_with<'a>(
    options: &'a Options,
    kernel: Option<&'a mut (dyn Kernel + 'a)>,
    out: &'a mut (dyn Write + 'a),
) -> anyhow::Result<()> {
    let mut explain = Explain { options, kernel, out, opener: Opener::new(), counts: Counts::default() };
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
    opener: Opener,
    counts: Counts,
}

impl Explain<'_> {
    fn packet(&mut self, packet: &Packet<'_>) -> anyhow::Result<()> {
        let line = match self.opener.open(packet) {
            Found::Other(name) => {
                *self.counts.others.entry(name).or_default() += 1;
                return Ok(());
            }
            Found::Unreadable(why, around) => {
                *if why.starts_with("not read") { &mut self.counts.unread } else { &mut self.counts.datagrams } += 1;
                let line = Line::unreadable(packet.frame, &why).around(&around);
                self.with_kernel(line, packet, None, Some(packet.bytes))?
            }
            Found::Datagram(Datagram { payload, around, packet: bare }) => {
                let message = full::read(&payload);
                let fast_path = self.fast_path(packet.frame, &payload, &around, message.as_ref().ok());
                let line = Line::read(packet.frame, message, self.options.hash_key, fast_path).around(&around);
                let is_frame = packet.link == Linktype::ETHERNET && !around.is_tunnelled;
                let made = if is_frame { None } else { bare.map(datagram::frame) };
                let frame = if is_frame { Some(packet.bytes) } else { made.as_deref() };
                self.with_kernel(line, packet, message.as_ref().ok(), frame)?
            }
        };
        if self.options.json {
            serde_json::to_writer(&mut *self.out, &line).context("write the explanation")?;
            writeln!(self.out).context("write the explanation")
        } else {
            writeln!(self.out, "{line}").context("write the explanation")
        }
    }

    /// What the fast path says of the payload; of a frame whose payload it does not come to, why.
    fn fast_path(
        &mut self,
        frame: u64,
        payload: &[u8],
        around: &Around,
        message: Option<&full::Message<'_>>,
    ) -> String {
        self.counts.datagrams += 1;
        self.counts.keyable += u64::from(message.is_some());
        let hash_key = self.options.hash_key;
        let said = match fast::read(payload, hash_key, false) {
            Ok(marks) => verify::compare(&marks.explained(), payload, message, hash_key),
            Err(why) => Said::Punts(why.outcome().name()),
        };
        self.counts.note(frame, &said);
        match said {
            Said::Differs(_) => said.to_string(),
            Said::Agrees | Said::Punts(_) if let Some(outcome) = around.outcome => outcome.name().to_owned(),
            Said::Agrees => {
                self.counts.fast += 1;
                "key".to_owned()
            }
            Said::Punts(outcome) => outcome.to_owned(),
        }
    }

    fn with_kernel(
        &mut self,
        line: Line,
        packet: &Packet<'_>,
        message: Option<&full::Message<'_>>,
        frame: Option<&[u8]>,
    ) -> anyhow::Result<Line> {
        let Some(kernel) = self.kernel.as_deref_mut() else { return Ok(line) };
        if packet.snapped {
            return Ok(line.with_kernel("not asked: snapped".to_owned()));
        }
        let Some(frame) = frame else { return Ok(line.with_kernel("not asked: it came in fragments".to_owned())) };
        if frame.len() > kernel.longest() {
            return Ok(line.with_kernel(format!("not asked: longer than {} bytes", kernel.longest())));
        }
        let found = kernel.explain(frame).with_context(|| format!("ask the kernel about frame {}", packet.frame))?;
        let said = verify::compare(&found, frame, message, self.options.hash_key);
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
    /// Frames that are not read.
    unread: u64,
    /// Frames without UDP, by protocol.
    others: BTreeMap<String, u64>,
}

impl Counts {
    fn note(&mut self, frame: u64, said: &Said) {
        if matches!(said, Said::Differs(_)) {
            self.differing += 1;
            self.first_differing.get_or_insert(frame);
        }
    }

    fn summary(&self) -> String {
        let Self { datagrams, keyable, fast, unread, others, .. } = self;
        let mut summary = format!("{datagrams} UDP datagrams, {keyable} with a key, {fast} of them by the fast path");
        if *unread != 0 {
            let _ = write!(summary, "; {unread} frames not read");
        }
        if !others.is_empty() {
            let names: Vec<_> = others.iter().map(|(name, number)| format!("{number} {name}")).collect();
            let _ = write!(summary, "; not UDP: {}", names.join(", "));
        }
        summary
    }

    fn check(&self, file: &std::path::Path) -> anyhow::Result<()> {
        let name = file.display();
        if let Some(frame) = self.first_differing {
            let number = self.differing;
            bail!(
                "explain {name}: {number} answers of the fast path are wrong, first at frame {frame}; hint: report it"
            );
        }
        if self.datagrams == 0 && self.unread != 0 {
            let number = self.unread;
            bail!(
                "explain {name}: {number} frames are not read, and no UDP datagram was found; hint: capture with \
                 `tcpdump -i eth0 -w FILE` on the edge"
            );
        }
        Ok(())
    }
}
