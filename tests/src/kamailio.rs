//! Kamailio on the edges, and as a core network in the carrier's place.
//!
//! Each writes a line that begins with `LAB` for what a test counts; see `kamailio/edge.cfg`.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Family, Host, Lab, SIP, VIP4, VIP6};
use crate::namespace::Namespace;
use crate::poll::{poll_until, poll_until_true};
use crate::process::Process;

/// The edges' script; the lab fills in the words between @ signs.
const EDGE: &str = include_str!("../kamailio/edge.cfg");
/// The core's.
const CORE: &str = include_str!("../kamailio/core.cfg");
/// The core's port, in the carrier's namespace.
pub const CORE_PORT: u16 = 5070;

/// One line that a script logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `request`, `reply`, `matched_reply`, `stray_reply`, `stray_ack` or `stray_cancel`.
    pub kind: String,
    words: Vec<(String, String)>,
}

impl Event {
    /// A word's value, such as `method`, `callid`, `from`, `status`, `cseq`; empty where the line lacks it.
    #[must_use]
    pub fn word(&self, name: &str) -> &str {
        self.words.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// When it was logged, in microseconds since 1970; none where the line lacks it.
    #[must_use]
    pub fn micros(&self) -> Option<u64> {
        let (seconds, micros) = self.word("at").split_once('.')?;
        let (seconds, micros): (u64, u64) = (seconds.parse().ok()?, micros.parse().ok()?);
        Some(seconds * 1_000_000 + micros)
    }

    fn parse(line: &str) -> Option<Self> {
        let (_, text) = line.split_once("LAB ")?;
        let mut words = text.split_whitespace();
        let kind = words.next()?.to_owned();
        let words =
            words.filter_map(|word| word.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some(Self { kind, words: words.collect() })
    }
}

/// A running Kamailio.
#[derive(Debug)]
pub struct Kamailio {
    process: Process,
    namespace: Namespace,
    folder: PathBuf,
}

impl Kamailio {
    /// Starts the proxy of one edge; `answers_at_once` is whether it sends 100 to an INVITE by itself.
    ///
    /// # Errors
    /// It does not start within five seconds; the message holds what it said.
    pub fn edge(lab: &Lab, edge: u8, answers_at_once: bool) -> Result<Self> {
        let host = Host::Edge(edge);
        let auto = if answers_at_once { "1" } else { "0" };
        let script = EDGE.replace("@EDGE@", &edge.to_string()).replace("@AUTO_100@", auto);
        Self::start(lab, host, SIP, &host.name(), &script)
    }

    /// Starts one on every edge.
    ///
    /// # Errors
    /// As [`Self::edge`].
    pub fn edges(lab: &Lab, answers_at_once: bool) -> Result<Vec<Self>> {
        lab.edges().map(|number| Self::edge(lab, number, answers_at_once)).collect()
    }

    /// Starts the core, which sends every call back to the shared address.
    ///
    /// # Errors
    /// As [`Self::edge`].
    pub fn core(lab: &Lab) -> Result<Self> {
        Self::start(lab, Host::Carrier, CORE_PORT, "core", CORE)
    }

    fn start(lab: &Lab, host: Host, port: u16, name: &str, script: &str) -> Result<Self> {
        let folder = lab.folder().join(format!("kamailio-{name}"));
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let config = folder.join("kamailio.cfg");
        let text = addressed(script, host).replace("@FOLDER@", &folder.display().to_string());
        std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let namespace = lab.host(host);
        let mut command = namespace.command("kamailio");
        // In the foreground, with little memory: it starts at once.
        command.args(["-DD", "-E", "-m", "64", "-M", "8", "-f"]).arg(&config).arg("-Y").arg(&folder);
        command.arg("-P").arg(folder.join("kamailio.pid"));
        let mut process = Process::start(&format!("kamailio of {name}"), &mut command, &folder.join("log"))?;
        let started = format!("kamailio of {name} listens");
        // Where the host's name is not in /etc/hosts it first waits in vain for a name server.
        poll_until_true(&started, Duration::from_secs(30), || {
            process.must_run()?;
            Ok(lab.has_port(host, port)? && (host == Host::Carrier || folder.join("kamcmd.sock").exists()))
        })?;
        Ok(Self { process, namespace, folder })
    }

    /// Everything logged so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.process.output().lines().filter_map(Event::parse).collect()
    }

    /// How many lines of a kind were logged so far.
    #[must_use]
    pub fn count(&self, kind: &str) -> u64 {
        self.events().iter().filter(|event| event.kind == kind).count() as u64
    }

    /// How many requests came again after the first of their transaction; ACKs do not count.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        let mut seen = HashSet::new();
        let events = self.events();
        let requests = events.iter().filter(|event| event.kind == "request" && event.word("method") != "ACK");
        requests.filter(|event| !seen.insert(["method", "callid", "cseq"].map(|name| event.word(name)))).count() as u64
    }

    /// Lets the proxy itself send OPTIONS with this Call-ID from the shared address to the carrier.
    ///
    /// # Errors
    /// kamcmd fails.
    pub fn send_options(&self, family: Family, call_id: &str) -> Result<()> {
        let written = |address: IpAddr| SocketAddr::new(address, SIP).to_string();
        let (own, carrier) = (written(family.vip()), written(Host::Carrier.address(family)));
        let target = format!("sip:options@{carrier}");
        let headers = format!("From: <sip:edge@{own}>\r\nTo: <{target}>\r\nCall-ID: {call_id}\r\n");
        let control = format!("unix:{}", self.folder.join("kamcmd.sock").display());
        let socket = format!("udp:{own}");
        // "s:" is the empty string; kamcmd has exit code 0 for refusals too, but is silent only when it is content.
        let arguments = ["-s", &control, "tm.t_uac_start", "OPTIONS", &target, ".", &socket, &headers, "s:"];
        let answer = self.namespace.run("kamcmd", &arguments)?;
        ensure!(answer.trim().is_empty(), "kamcmd says: {answer}");
        Ok(())
    }

    /// Waits until the reply to a request of its own with this Call-ID has come, and says whether it found its
    /// transaction.
    ///
    /// # Errors
    /// None comes within three seconds.
    pub fn wait_for_reply(&self, call_id: &str) -> Result<bool> {
        let reply = poll_until(&format!("the reply to {call_id} comes"), Duration::from_secs(3), || {
            let found = self.events().into_iter().find(|event| {
                event.word("callid") == call_id && matches!(event.kind.as_str(), "matched_reply" | "stray_reply")
            });
            Ok(found)
        })?;
        Ok(reply.kind != "stray_reply")
    }

    /// Stops all its processes, as a flood would: its sockets stay, and nobody reads them.
    pub fn pause(&self) {
        self.process.signal(libc::SIGSTOP);
    }

    /// They go on.
    pub fn go_on(&self) {
        self.process.signal(libc::SIGCONT);
    }

    /// Ends it with SIGKILL, with all its processes.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.process.stop_with(libc::SIGKILL).map(drop)
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn stop(&mut self) -> Result<()> {
        self.process.stop().map(drop)
    }
}

fn addressed(script: &str, host: Host) -> String {
    let mut text = script.replace("@VIP4@", &VIP4.to_string()).replace("@VIP6@", &VIP6.to_string());
    for (name, host) in [("UNDERLAY", host), ("CARRIER", Host::Carrier), ("CLIENT", Host::Client)] {
        text = text.replace(&format!("@{name}4@"), &host.address(Family::V4).to_string());
        text = text.replace(&format!("@{name}6@"), &host.address(Family::V6).to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_line_is_read_word_by_word() {
        let event = Event::parse(" 3(123) NOTICE: <script>: LAB stray_reply edge=1 status=180 callid=a=b@c");
        let event = event.unwrap_or(Event { kind: String::new(), words: Vec::new() });
        assert_eq!(event.kind, "stray_reply");
        assert_eq!((event.word("status"), event.word("callid"), event.word("method")), ("180", "a=b@c", ""));
    }
}
