//! Kamailio on the edges, and as a core network in the carrier's place.
//!
//! Each writes a line that begins with `LAB` for what a test counts; see `kamailio/edge.cfg`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::lab::{Family, Host, Lab, SIP, VIP4, VIP6};
use crate::namespace::Namespace;
use crate::poll::poll_until_true;
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
    /// `request`, `reply`, `absorbed`, `stray_reply`, `stray_ack` or `stray_cancel`.
    pub kind: String,
    words: Vec<(String, String)>,
}

impl Event {
    /// A word's value, such as `method`, `callid`, `from`, `status`, `cseq`; empty where the line lacks it.
    #[must_use]
    pub fn word(&self, name: &str) -> &str {
        self.words.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    fn parse(line: &str) -> Option<Self> {
        let (_, text) = line.split_once("LAB ")?;
        let mut words = text.split_whitespace();
        let kind = words.next()?.to_owned();
        let words = words.filter_map(|word| word.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned()));
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
        let mut all = Vec::new();
        for host in lab.edges() {
            if let Host::Edge(number) = host {
                all.push(Self::edge(lab, number, answers_at_once)?);
            }
        }
        Ok(all)
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
        poll_until_true(&started, Duration::from_secs(5), || {
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

    /// Lets the proxy itself send OPTIONS from the shared address to the carrier, and returns the reply that it matched to
    /// its transaction: status line and headers, as kamcmd prints them.
    ///
    /// # Errors
    /// kamcmd fails or no reply comes; Kamailio's own time limit applies.
    pub fn options(&self, family: Family) -> Result<String> {
        let (uri, socket, own) = match family {
            Family::V4 => (format!("{}", Host::Carrier.address(family)), VIP4.to_string(), VIP4.to_string()),
            Family::V6 => (format!("[{}]", Host::Carrier.address(family)), format!("[{VIP6}]"), format!("[{VIP6}]")),
        };
        let target = format!("sip:options@{uri}:{SIP}");
        let headers = format!("From: <sip:edge@{own}>\r\nTo: <{target}>\r\nContact: <sip:edge@{own}:{SIP}>\r\n");
        let control = format!("unix:{}", self.folder.join("kamcmd.sock").display());
        let send_from = format!("udp:{socket}:{SIP}");
        self.namespace.run("kamcmd", &["-s", &control, "tm.t_uac_wait", "OPTIONS", &target, ".", &send_from, &headers, "."])
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
