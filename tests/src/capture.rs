//! Captures: tcpdump in a namespace, a reader for what it wrote, and tshark for a second opinion.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Host, Lab};
use crate::poll::poll_until_true;
use crate::process::{self, Process};

mod datagram;
mod pcap;

pub use datagram::Datagram;

/// Bytes captured of each packet: more than the MTU, and few, because each takes as much of tcpdump's buffer.
const SNAPLEN: &str = "2048";

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Starts on everything that the router takes in, so that each packet is seen once, as its sender sent it.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub fn router(lab: &Lab, name: &str, filter: &str) -> Result<Self> {
        Self::start(lab, Host::Router, "any", "in", name, filter)
    }

    /// Starts on what a host's interface takes in. With native XDP that is what the program passes.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub fn arriving(lab: &Lab, host: Host, interface: &str, name: &str, filter: &str) -> Result<Self> {
        Self::start(lab, host, interface, "in", name, filter)
    }

    /// Starts on a host's own eth0, in both directions.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub fn inside(lab: &Lab, host: Host, name: &str, filter: &str) -> Result<Self> {
        Self::start(lab, host, "eth0", "inout", name, filter)
    }

    /// Starts on one interface of the router, towards `host`, in both directions and with its Ethernet headers.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub fn cable(lab: &Lab, host: Host, name: &str, filter: &str) -> Result<Self> {
        Self::start(lab, Host::Router, &host.name(), "inout", name, filter)
    }

    fn start(lab: &Lab, host: Host, interface: &str, way: &str, name: &str, filter: &str) -> Result<Self> {
        let file = lab.folder().join(format!("{name}.pcap"));
        let mut command = lab.host(host).command("tcpdump");
        command
            .args(["-i", interface, "-Q", way, "-n", "-U", "-s", SNAPLEN, "-B", "16384", "-Z", "root", "-w"])
            .arg(&file);
        command.args(["--immediate-mode"]).arg(filter);
        let mut process = Process::start(&format!("tcpdump {name}"), &mut command, &file.with_extension("tcpdump"))?;
        poll_until_true(&format!("tcpdump {name} listens"), Duration::from_secs(5), || {
            process.must_run()?;
            Ok(process.output().contains("listening on"))
        })?;
        Ok(Self { process, file })
    }

    /// Where it writes.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The UDP datagrams captured so far; tunnel packets count as what they are outside.
    ///
    /// # Errors
    /// The file is no capture.
    pub fn datagrams(&self) -> Result<Vec<Datagram>> {
        let bytes = std::fs::read(&self.file).with_context(|| format!("read {}", self.file.display()))?;
        pcap::datagrams(&bytes).with_context(|| format!("read {}", self.file.display()))
    }

    /// The IP packets captured so far, without their link's header.
    ///
    /// # Errors
    /// The file is no capture.
    pub fn packets(&self) -> Result<Vec<Vec<u8>>> {
        let bytes = std::fs::read(&self.file).with_context(|| format!("read {}", self.file.display()))?;
        pcap::packets(&bytes).with_context(|| format!("read {}", self.file.display()))
    }

    /// Ends the capture with everything written.
    ///
    /// # Errors
    /// tcpdump cannot be waited for, or lost packets.
    pub fn stop(&mut self) -> Result<()> {
        self.process.stop_with(libc::SIGINT)?;
        let output = self.process.output();
        ensure!(output.contains("\n0 packets dropped by kernel"), "{} lost packets: {output}", self.process.name());
        Ok(())
    }
}

/// How many SIP datagrams repeat an earlier one: same addresses, same bytes.
#[must_use]
pub fn repeated(datagrams: &[Datagram]) -> u64 {
    let mut seen = HashSet::new();
    let sip = datagrams.iter().filter(|datagram| datagram.is_sip());
    sip.filter(|datagram| !seen.insert((datagram.source, datagram.destination, &datagram.payload))).count() as u64
}

/// The fields that tshark reads in the packets of a file that fit a display filter, one line a packet, tab-separated.
///
/// # Errors
/// tshark fails.
pub fn tshark(file: &Path, filter: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
    let path = file.display().to_string();
    let mut arguments = vec!["-n", "-r", &path, "-Y", filter, "-T", "fields"];
    for check in ["ip.check_checksum:TRUE", "udp.check_checksum:TRUE", "tcp.check_checksum:TRUE"] {
        arguments.extend(["-o", check]);
    }
    for field in fields {
        arguments.extend(["-e", field]);
    }
    let text = process::run("tshark", &arguments)?;
    Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

/// Fails where a packet of the file has a wrong checksum, at any layer.
///
/// # Errors
/// One has, or tshark fails.
pub fn checksums_are_right(file: &Path) -> Result<()> {
    let wrong = "ip.checksum.status == 0 || udp.checksum.status == 0 || tcp.checksum.status == 0 || \
                 icmp.checksum.status == 0 || icmpv6.checksum.status == 0";
    let frames = tshark(file, wrong, &["frame.number", "_ws.col.Info"])?;
    ensure!(frames.is_empty(), "{} has packets with a wrong checksum: {frames:?}", file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn datagram(frame: u64, port: u16, payload: &[u8]) -> Datagram {
        let source = (Ipv4Addr::LOCALHOST.into(), port);
        Datagram { frame, micros: frame, source, destination: source, payload: payload.to_vec() }
    }

    #[test]
    fn only_the_same_bytes_between_the_same_ends_are_a_repetition() {
        let invite = b"INVITE sip:a@b SIP/2.0\r\nCall-ID: x\r\n\r\n";
        let tunnel = [b"\x03\x00", invite.as_slice()].concat();
        let list = [
            datagram(1, 5060, invite),
            datagram(2, 5060, invite),
            datagram(3, 5061, invite),
            datagram(4, 5060, b"SIP/2.0 100 Trying\r\n\r\n"),
            datagram(5, 5060, invite),
            datagram(6, 6081, &tunnel),
            datagram(7, 6081, &tunnel),
        ];
        assert_eq!(repeated(&list), 2);
    }

    #[test]
    fn a_header_is_found_before_the_body_only() {
        let message = datagram(1, 1, b"SIP/2.0 200 OK\r\nserver: edge-2\r\n\r\nX-Edge: 9\r\n");
        assert_eq!(message.header("Server").as_deref(), Some("edge-2"));
        assert_eq!(message.header("X-Edge"), None);
    }
}
