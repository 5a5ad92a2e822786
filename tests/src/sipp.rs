//! sipp at both ends: callers in the client's namespace, callees in the carrier's.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Family, Host, Lab, SIP};
use crate::poll::poll_until_true;
use crate::process::Process;

pub mod scribe;
mod shape;

pub use scribe::Form;
use scribe::Scribe;
pub use shape::{Padding, Place, Shape};

/// Bytes of each socket's buffers: room for large messages that come together.
const BUFFER: &str = "2097152";

/// How long a caller waits for a message before its call has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a callee may take to finish its last calls: the time that each stays to absorb repeated messages.
const LEFTOVERS: Duration = Duration::from_secs(4);

/// What a call is to be. The caller writes it as the user part of the request URI, by which the edges choose the
/// callee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// INVITE, 180, 200, ACK, BYE.
    Call,
    /// INVITE, 180, CANCEL, 487, ACK.
    Cancel,
    /// INVITE, 486, ACK.
    Busy,
    /// MESSAGE, answered after 1.2 s.
    Late,
    /// INVITE without a word for 1.5 s.
    Silent,
    /// A call that crosses the edges twice; its callee is in the client's namespace.
    Twice,
}

impl Kind {
    /// The user part of its request URI, and how its scenarios' files begin.
    #[must_use]
    pub const fn user(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Cancel => "cancel",
            Self::Busy => "busy",
            Self::Late => "late",
            Self::Silent => "silent",
            Self::Twice => "twice",
        }
    }

    const fn scenarios(self) -> (&'static str, &'static str) {
        match self {
            Self::Call | Self::Twice => {
                (include_str!("../scenarios/call-client.xml"), include_str!("../scenarios/call-carrier.xml"))
            }
            Self::Cancel => {
                (include_str!("../scenarios/cancel-client.xml"), include_str!("../scenarios/cancel-carrier.xml"))
            }
            Self::Busy => (include_str!("../scenarios/busy-client.xml"), include_str!("../scenarios/busy-carrier.xml")),
            Self::Late => (include_str!("../scenarios/late-client.xml"), include_str!("../scenarios/late-carrier.xml")),
            Self::Silent => {
                (include_str!("../scenarios/silent-client.xml"), include_str!("../scenarios/silent-carrier.xml"))
            }
        }
    }

    /// Where its callee listens, as `kamailio/edge.cfg` has it.
    #[must_use]
    pub const fn callee(self) -> (Host, u16) {
        match self {
            Self::Call => (Host::Carrier, 5060),
            Self::Cancel => (Host::Carrier, 5061),
            Self::Busy => (Host::Carrier, 5062),
            Self::Late => (Host::Carrier, 5063),
            Self::Silent => (Host::Carrier, 5064),
            Self::Twice => (Host::Client, 5080),
        }
    }

    /// The caller's port.
    #[must_use]
    pub const fn caller(self) -> u16 {
        match self {
            Self::Call => 5060,
            Self::Cancel => 5061,
            Self::Busy => 5062,
            Self::Late => 5063,
            Self::Silent => 5064,
            Self::Twice => 5065,
        }
    }
}

/// What sipp counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls begun.
    pub calls: u64,
    /// Calls that went exactly as the scenario says.
    pub successful: u64,
    /// Calls that did not.
    pub failed: u64,
    /// Messages sent again.
    pub retransmissions: u64,
}

/// Where a sipp speaks to the edges, and how it writes.
type At = ((Host, u16), Family, Option<Form>);

/// A running sipp.
#[derive(Debug)]
pub struct Sipp {
    process: Process,
    statistics: PathBuf,
    _scribe: Option<Scribe>,
}

impl Sipp {
    /// Starts the callee of a kind of call and waits until it listens.
    ///
    /// # Errors
    /// It does not start.
    pub fn callee(lab: &Lab, kind: Kind, family: Family, shape: Shape) -> Result<Self> {
        let (_, scenario) = kind.scenarios();
        let (host, port) = kind.callee();
        Self::server(lab, kind.user(), &shape.callee(scenario), (host, port), family, shape.form)
    }

    /// Starts a carrier that answers OPTIONS.
    ///
    /// # Errors
    /// It does not start.
    pub fn options_carrier(lab: &Lab, family: Family) -> Result<Self> {
        let scenario = include_str!("../scenarios/options-carrier.xml");
        Self::server(lab, "options", scenario, (Host::Carrier, SIP), family, None)
    }

    fn server(
        lab: &Lab,
        name: &str,
        scenario: &str,
        at: (Host, u16),
        family: Family,
        form: Option<Form>,
    ) -> Result<Self> {
        let mut sipp = Self::start(lab, &format!("{name}-callee"), scenario, (at, family, form), &[])?;
        let port = if form.is_some() { Scribe::sipp(at.1) } else { at.1 };
        poll_until_true(&format!("sipp listens for {name}"), Duration::from_secs(5), || {
            sipp.process.must_run()?;
            lab.has_port(at.0, port)
        })?;
        Ok(sipp)
    }

    /// Starts so many calls at so many a second to the shared address.
    ///
    /// # Errors
    /// It does not start.
    pub fn caller(lab: &Lab, kind: Kind, family: Family, (count, rate): (u32, u32), shape: Shape) -> Result<Self> {
        let (scenario, _) = kind.scenarios();
        let target = SocketAddr::new(family.vip(), SIP).to_string();
        let scribe = SocketAddr::new(Host::Client.address(family), Scribe::inner(kind.caller())).to_string();
        let (count, rate, timeout) = (count.to_string(), rate.to_string(), TIMEOUT.as_millis().to_string());
        let mut arguments =
            vec!["-s", kind.user(), "-m", &count, "-l", &count, "-r", &rate, "-recv_timeout", &timeout, &target];
        if shape.form.is_some() {
            arguments.extend(["-rsa", &scribe]);
        }
        let name = format!("{}-caller", kind.user());
        let at = ((Host::Client, kind.caller()), family, shape.form);
        Self::start(lab, &name, &shape.caller(scenario), at, &arguments)
    }

    fn start(lab: &Lab, name: &str, scenario: &str, place: At, more: &[&str]) -> Result<Self> {
        let ((host, mut port), family, form) = place;
        let scribe = form.map(|form| Scribe::start(lab, (host, port), family, form)).transpose()?;
        let mut scenario = scenario.to_owned();
        if scribe.is_some() {
            // What is written in a message is what the edges are to see.
            scenario = scenario.replace("[local_port]", &port.to_string());
            port = Scribe::sipp(port);
        }
        let file = |ending: &str| lab.folder().join(format!("sipp-{name}-{family:?}.{ending}"));
        let (script, statistics) = (file("xml"), file("csv"));
        std::fs::write(&script, scenario).with_context(|| format!("write {}", script.display()))?;
        let mut command = lab.host(host).command("sipp");
        command.arg("-sf").arg(&script).arg("-i").arg(host.address(family).to_string()).arg("-p").arg(port.to_string());
        command
            .args(["-t", "u1", "-buff_size", BUFFER, "-nostdin", "-trace_stat", "-fd", "1", "-stf"])
            .arg(&statistics);
        command.arg("-trace_err").arg("-error_file").arg(file("errors")).args(more);
        let process = Process::start(&format!("sipp {name}"), &mut command, &file("log"))?;
        Ok(Self { process, statistics, _scribe: scribe })
    }

    /// How many calls have begun, by its last word; it speaks once a second.
    #[must_use]
    pub fn begun(&self) -> u64 {
        counts(&self.statistics).map_or(0, |counts| counts.calls)
    }

    /// Waits until all calls have ended, well or not, and returns what it counted.
    ///
    /// # Errors
    /// It runs past `deadline`, or could not run at all.
    pub fn finish(&mut self, deadline: Duration) -> Result<Counts> {
        let status = self.process.wait(deadline)?;
        // 0: all calls went well; 1: some failed. Anything else is an error of the program.
        ensure!(matches!(status.code(), Some(0 | 1)), "{} ended with {status}", self.process.name());
        counts(&self.statistics)
    }

    /// Ends a callee and returns what it counted.
    ///
    /// # Errors
    /// It left no statistics.
    pub fn stop(&mut self) -> Result<Counts> {
        // sipp takes SIGUSR1 for "finish the calls, then write the statistics and end"; a second one does not wait.
        self.process.signal(libc::SIGUSR1);
        if self.process.wait(LEFTOVERS).is_err() {
            self.process.stop_with(libc::SIGUSR1)?;
        }
        counts(&self.statistics)
    }
}

/// Reads the last line of sipp's statistics.
fn counts(path: &Path) -> Result<Counts> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split(';').collect();
    let last = lines.last().with_context(|| format!("read {}: sipp wrote no statistics", path.display()))?;
    let values: Vec<&str> = last.split(';').collect();
    let value = |name: &str| -> Result<u64> {
        let column = names.iter().position(|known| *known == name);
        let text = column
            .and_then(|column| values.get(column))
            .with_context(|| format!("find {name} in sipp's statistics"))?;
        text.parse().with_context(|| format!("read {name} in sipp's statistics"))
    };
    Ok(Counts {
        calls: value("TotalCallCreated")?,
        successful: value("SuccessfulCall(C)")?,
        failed: value("FailedCall(C)")?,
        retransmissions: value("Retransmissions(C)")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_the_statistics_counts() -> Result<()> {
        let path = std::env::temp_dir().join(format!("sipp-statistics-{}", std::process::id()));
        let names = "Time;TotalCallCreated;SuccessfulCall(P);SuccessfulCall(C);FailedCall(C);Retransmissions(C);";
        std::fs::write(&path, format!("{names}\n1;5;9;1;0;0;\n2;8;9;6;2;3;\n"))?;
        let read = counts(&path);
        std::fs::write(&path, names)?;
        let nothing = counts(&path);
        std::fs::remove_file(&path)?;
        assert_eq!(read?, Counts { calls: 8, successful: 6, failed: 2, retransmissions: 3 });
        assert!(nothing.is_err(), "a file without a line of values counts nothing");
        Ok(())
    }
}
