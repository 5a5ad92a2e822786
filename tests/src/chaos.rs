//! A soak over five edges: calls of all kinds go on all the time while faults come from a seed's schedule, and an
//! oracle judges each call that is lost.
//!
//! Schedule and calls are data: the same seed gives the same faults and calls at the same times. Where each packet
//! lands is the router's chance, so two runs of one seed lose other calls. Proxies and daemons are the real ones. Wrong
//! clocks are those of a library that is loaded into a daemon.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::capture::{Capture, Datagram};
use crate::kamailio::Kamailio;
use crate::lab::{Family, Host, Lab, VIP4, VIP6};
use crate::poll::poll_until_true;

pub mod call;
pub mod callee;
pub mod caller;
pub mod fault;
pub mod injector;
pub mod journal;
pub mod message;
pub mod oracle;
pub mod report;
pub mod retransmission;
pub mod schedule;

pub use report::Report;
pub use schedule::Schedule;

use call::Dossier;
use callee::Callees;
use caller::Callers;
use injector::Injector;
use oracle::Verdict;

/// The edges of a soak.
pub const EDGES: u8 = 5;
/// Calls a second.
const RATE: u32 = 25;
/// Until all packets of the last call are in the captures.
const SETTLED: Duration = Duration::from_millis(500);

/// Runs a soak of so many seconds, with the schedule of a seed or another one. Each fault is told when it begins and
/// ends.
///
/// In the lab's folder are the `schedule`, the `faults` as they were carried out, the `report`, the `lost` calls and
/// those of which a message went `astray`.
///
/// # Errors
/// A program does not run, or a fault cannot be carried out. Lost calls are no error: they are in the report.
pub fn soak(
    lab: &Lab,
    seed: u64,
    seconds: u64,
    schedule: Option<Schedule>,
    mut tell: impl FnMut(&str),
) -> Result<Report> {
    let schedule = schedule.unwrap_or_else(|| Schedule::of(seed, seconds, EDGES));
    let write = |name: &str, text: String| {
        fs::write(lab.folder().join(name), text).with_context(|| format!("write {name} of the soak"))
    };
    write("schedule", schedule.to_string())?;
    tell(&format!("seed {seed}, {} faults in {seconds} s", schedule.0.len()));
    let mut faults = File::create(lab.folder().join("faults")).context("write the faults of the soak")?;
    let mut injector = Injector::start(lab, Family::V4)?;
    let vips = format!("dst host {VIP4} or dst host {VIP6}");
    let captures = lab.edges().map(|edge| Capture::cable(lab, Host::Edge(edge), &format!("edge{edge}"), &vips));
    let mut captures: Vec<Capture> = captures.collect::<Result<_>>()?;
    let callees = Callees::start(lab)?;
    let callers = Callers::start(lab, seed, RATE)?;
    let done = injector.play(&schedule, seconds, |fault| {
        // What is missing there is in the daemons' logs.
        let _ = writeln!(faults, "{fault}");
        tell(fault);
    })?;
    let mut calls = callers.finish()?;
    let last = Instant::now();
    poll_until_true("the last packets are in the captures", SETTLED * 2, || Ok(last.elapsed() >= SETTLED))?;
    drop(callees);
    captures.iter_mut().try_for_each(Capture::stop)?;
    injector.cluster.wait_until_linked().context("link all daemons again after the last fault")?;

    let landed: Vec<Vec<Datagram>> = captures.iter().map(Capture::datagrams).collect::<Result<_>>()?;
    complete(&mut calls, &landed, &injector.proxies);
    let report = Report::new(seed, seconds, &calls, done);
    let said = |judged: &[(Dossier, Verdict)]| -> String {
        judged.iter().map(|(call, verdict)| format!("{verdict:?}: {call:?}\n")).collect()
    };
    write("lost", said(&report.lost))?;
    write("astray", said(&report.astray))?;
    write("report", report.to_string())?;
    let fewest = usize::try_from(u64::from(RATE) * seconds / 2)?;
    ensure!(calls.len() > fewest, "only {} calls were made", calls.len());
    Ok(report)
}

/// Adds where the packets of each call landed, and whose proxies had it; edge 1 comes first.
fn complete(calls: &mut [Dossier], landed: &[Vec<Datagram>], proxies: &[Kamailio]) {
    calls.sort_by_key(|call| call.begun_us);
    let mut by_id: HashMap<String, &mut Dossier> = calls.iter_mut().map(|call| (call.id.clone(), call)).collect();
    for (edge, datagrams) in (1..).zip(landed) {
        for datagram in datagrams.iter().filter(|datagram| datagram.is_sip()) {
            let call = datagram.header("Call-ID").and_then(|id| by_id.get_mut(&id));
            let number = datagram.header("CSeq").and_then(|cseq| cseq.split(' ').next()?.parse().ok());
            if let (Some(call), Some(number)) = (call, number) {
                call.landed.push((datagram.micros, edge, number));
            }
        }
    }
    for (edge, proxy) in (1..).zip(proxies) {
        for event in proxy.events() {
            let (at, number) = (event.micros(), event.word("cseq").parse().ok());
            if let (Some(call), Some(at), Some(number)) = (by_id.get_mut(event.word("callid")), at, number) {
                call.had.push((at, edge, number));
            }
        }
    }
    for call in by_id.into_values() {
        call.landed.sort_unstable();
        call.had.sort_unstable();
    }
}
