//! A scribe: a middlebox beside sipp that writes what goes to the edges in another form, and what comes from them
//! plainly.
//!
//! sipp itself neither writes nor reads folded headers; real devices do. The scribe has the port that the edges know.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::lab::{Family, Host, Lab};
use crate::traffic::vip;

/// From the port that the edges know to the scribe's towards sipp.
const INNER: u16 = 10_000;
/// And to sipp's own.
const SIPP: u16 = 20_000;
/// How often the scribe looks whether it is to end.
const STEP: Duration = Duration::from_millis(50);
/// More headers than the forwarder's fast path looks through.
const MANY: usize = 130;

/// How a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Call-ID, CSeq and Via on several lines each; Kamailio reads no CSeq folded behind its number.
    Folded,
    /// Short header names, in capitals and with a blank before the colon.
    Compact,
    /// Lines that end with LF alone.
    BareLf,
    /// CR without LF inside a header, and others in front of the keys.
    BareCr,
    /// Many headers in front of the keys.
    ManyHeaders,
    /// CRLF in front of the start line.
    LeadingCrlf,
}

impl Form {
    /// All.
    pub const ALL: [Self; 6] =
        [Self::Folded, Self::Compact, Self::BareLf, Self::BareCr, Self::ManyHeaders, Self::LeadingCrlf];

    /// A message, written plainly, in this form.
    #[must_use]
    pub fn write(self, message: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(message);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let (start, headers) = head.split_once("\r\n").unwrap_or((head, ""));
        let written: Vec<String> = headers.split("\r\n").map(|header| self.header(start, header)).collect();
        let (before, end, between) = match self {
            Self::LeadingCrlf => ("\r\n", "\r\n", String::new()),
            Self::BareLf => ("", "\n", String::new()),
            Self::BareCr => ("", "\r\n", "X-Odd: a\rb\r\r\n".to_owned()),
            Self::ManyHeaders => ("", "\r\n", "X:y\r\n".repeat(MANY)),
            Self::Folded | Self::Compact => ("", "\r\n", String::new()),
        };
        format!("{before}{start}{end}{between}{}{end}{end}{body}", written.join(end)).into_bytes()
    }

    fn header(self, start: &str, header: &str) -> String {
        let Some((name, value)) = header.split_once(':') else { return header.to_owned() };
        match (self, name) {
            (Self::Folded, "Via") => format!("Via:\r\n {}", value.trim().replacen(';', "\r\n\t;", 1)),
            (Self::Folded, "Call-ID") => format!("Call-ID: \r\n\t \r\n {}", value.trim()),
            // Kamailio forgets the number in a folded CSeq of an INVITE where it cancels the call itself.
            (Self::Folded, "CSeq") if !start.starts_with("INVITE ") => format!("CSeq:\r\n\t {}", value.trim()),
            (Self::Compact, _) => match SHORT.iter().find(|(long, _)| *long == name) {
                Some((_, short)) => format!("{short} :{value}"),
                None => header.to_owned(),
            },
            _ => header.to_owned(),
        }
    }
}

/// RFC 3261 §7.3.3.
const SHORT: [(&str, &str); 7] = [
    ("Via", "V"),
    ("From", "f"),
    ("To", "T"),
    ("Call-ID", "I"),
    ("Contact", "m"),
    ("Content-Length", "L"),
    ("Content-Type", "c"),
];

/// A message in any form, written plainly: as sipp reads it.
#[must_use]
pub fn plainly(message: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(message).replace("\r\n", "\n");
    let text = text.trim_start();
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines: Vec<String> = Vec::new();
    for line in head.split('\n') {
        match lines.last_mut() {
            // RFC 3261 §7.3.1: a line that begins with a blank goes on with the one before.
            Some(last) if line.starts_with([' ', '\t']) => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => lines.push(line.to_owned()),
        }
    }
    let mut lines = lines.into_iter();
    let start = lines.next().unwrap_or_default();
    let headers: String = lines.filter_map(|line| plain_header(&line)).collect();
    format!("{start}\r\n{headers}\r\n{}", body.replace('\n', "\r\n")).into_bytes()
}

/// A header with its long name; none where it is only there to be odd.
fn plain_header(line: &str) -> Option<String> {
    let (name, value) = line.split_once(':')?;
    let (name, value) = (name.trim(), value.split_whitespace().collect::<Vec<_>>().join(" "));
    let long = SHORT.iter().find(|(_, short)| short.eq_ignore_ascii_case(name)).map_or(name, |(long, _)| long);
    (!long.starts_with('X') || long == "X-Edge").then(|| format!("{long}: {value}\r\n"))
}

/// A running scribe, until dropped.
#[derive(Debug)]
pub struct Scribe {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Scribe {
    /// Starts one at the port of a host that the edges know.
    ///
    /// # Errors
    /// A port is taken.
    pub fn start(lab: &Lab, (host, port): (Host, u16), family: Family, form: Form) -> Result<Self> {
        let at = |port| SocketAddr::new(host.address(family), port);
        let bind = |port| -> Result<Arc<UdpSocket>> {
            let socket = lab.host(host).within(|| UdpSocket::bind(at(port)).context("bind a scribe's port"))?;
            socket.set_read_timeout(Some(STEP)).context("set a time limit")?;
            socket2::SockRef::from(&socket).set_recv_buffer_size(1 << 20).context("set a scribe's buffer")?;
            Ok(Arc::new(socket))
        };
        let (outer, inner) = (bind(port)?, bind(port + INNER)?);
        let stop = Arc::new(AtomicBool::new(false));
        let (ends, starts) = ((Arc::clone(&inner), vip(family)), (outer, at(port + SIPP)));
        let (outer, vip, stopped) = (Arc::clone(&starts.0), ends.1, Arc::clone(&stop));
        let out = std::thread::spawn(move || relay(&ends.0, &outer, vip, &stopped, |message| form.write(message)));
        let stopped = Arc::clone(&stop);
        let back = std::thread::spawn(move || relay(&starts.0, &inner, starts.1, &stopped, plainly));
        Ok(Self { stop, threads: vec![out, back] })
    }

    /// The scribe's port towards sipp, where the edges know another.
    #[must_use]
    pub const fn inner(port: u16) -> u16 {
        port + INNER
    }

    /// sipp's own port.
    #[must_use]
    pub const fn sipp(port: u16) -> u16 {
        port + SIPP
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What comes to one socket, rewritten, goes out of the other.
fn relay(from: &UdpSocket, through: &UdpSocket, to: SocketAddr, stop: &AtomicBool, write: impl Fn(&[u8]) -> Vec<u8>) {
    let mut buffer = vec![0; 65_535];
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = from.recv(&mut buffer) else { continue };
        // What the kernel does not take is lost, as anywhere.
        let _ = through.send_to(&write(buffer.get(..length).unwrap_or_default()), to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = "INVITE sip:call@192.0.2.10 SIP/2.0\r\n\
                           Via: SIP/2.0/UDP 10.9.10.2:5060;branch=z9hG4bK1;a=b\r\n\
                           To: <sip:b@c>\r\nCall-ID: 1@lab\r\nCSeq: 1 INVITE\r\nContent-Length: 5\r\n\r\nv=0\r\n";

    #[test]
    fn a_message_written_in_any_form_is_read_back_plainly() {
        for form in Form::ALL {
            let odd = form.write(MESSAGE.as_bytes());
            assert_ne!(odd, MESSAGE.as_bytes(), "{form:?}");
            let text = String::from_utf8_lossy(&plainly(&odd)).replace("UDP 10.9.10.2:5060 ;", "UDP 10.9.10.2:5060;");
            assert_eq!(text, MESSAGE, "{form:?}");
        }
    }

    #[test]
    fn a_folded_message_keeps_its_body_and_its_length() {
        let message = MESSAGE.replace("INVITE", "BYE");
        let odd = String::from_utf8_lossy(&Form::Folded.write(message.as_bytes())).into_owned();
        assert!(odd.contains("Via:\r\n SIP/2.0/UDP 10.9.10.2:5060\r\n\t;branch=z9hG4bK1;a=b\r\nTo:"), "{odd}");
        assert!(odd.contains("CSeq:\r\n\t 1 BYE\r\n") && odd.ends_with("\r\n\r\nv=0\r\n"), "{odd}");
    }
}
