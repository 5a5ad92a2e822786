//! Calls through the edges, and what came of them.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::capture::{Capture, Datagram, repeated};
use crate::forwarder::Cluster;
use crate::kamailio::Kamailio;
use crate::lab::{Family, Host, Lab};
use crate::sipp::{Counts, Kind, Shape, Sipp};

/// What a load left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Calls of every kind.
    pub calls: u64,
    /// Of kinds that are not named below: those that went as their scenario says, at both ends.
    pub completed: u64,
    /// Cancelled calls that ended cleanly at both ends.
    pub cancelled_clean: u64,
    /// Refused calls that ended cleanly at both ends.
    pub rejected_clean: u64,
    /// Replies at an edge without their transaction.
    pub stray_replies: u64,
    /// ACKs at an edge without their transaction.
    pub stray_acks: u64,
    /// CANCELs at an edge without their transaction.
    pub stray_cancels: u64,
    /// SIP datagrams on the wire that repeat an earlier one.
    pub retransmissions: u64,
    /// Packets that an edge sent on to another, by the forwarders' own count; 0 without them.
    pub forwarded: u64,
}

/// A load of calls.
#[derive(Clone, Debug)]
pub struct Load {
    /// The kinds, all at the same time.
    pub kinds: Vec<Kind>,
    /// Calls of each kind.
    pub count: u32,
    /// Calls of each kind a second.
    pub rate: u32,
    /// IPv4 or IPv6.
    pub family: Family,
    /// How their scenarios differ from the files.
    pub shape: Shape,
}

impl Load {
    /// The load of most tests: 200 calls, 200 cancelled and 200 refused, each at 40 a second.
    #[must_use]
    pub fn usual(family: Family) -> Self {
        Self::of(&[Kind::Call, Kind::Cancel, Kind::Busy], 200, 40, family)
    }

    /// So many calls of each kind, each at so many a second.
    #[must_use]
    pub fn of(kinds: &[Kind], count: u32, rate: u32, family: Family) -> Self {
        Self { kinds: kinds.to_vec(), count, rate, family, shape: Shape::default() }
    }
}

/// The time that calls which fail may take beyond the load itself: sipp's timeout, more than once.
const TAIL: Duration = Duration::from_secs(45);

/// Runs the calls and reports what came of them, with the datagrams that the router took in meanwhile; their capture
/// stays in the lab's folder as `NAME.pcap`.
///
/// # Errors
/// A program does not run. Failed calls are no error: they are in the report.
pub fn run_load(
    lab: &Lab,
    name: &str,
    load: &Load,
    edges: &[Kamailio],
    cluster: Option<&Cluster>,
) -> Result<(Report, Vec<Datagram>)> {
    ensure!(load.rate > 0, "a load needs a rate");
    let strays = |kind: &str| edges.iter().map(|edge| edge.count(kind)).sum::<u64>();
    let before = [strays("stray_reply"), strays("stray_ack"), strays("stray_cancel")];
    let forwarded = forwarded(cluster)?;
    let mut capture = Capture::router(lab, name, "udp and not port 7470")?;
    let counts = calls(lab, load).with_context(|| format!("run the calls of {name}"))?;
    capture.stop()?;
    let datagrams = capture.datagrams()?;
    let mut report = Report {
        retransmissions: repeated(&datagrams),
        forwarded: self::forwarded(cluster)? - forwarded,
        ..Report::default()
    };
    for (kind, clean, begun) in counts {
        report.calls += begun;
        match kind {
            Kind::Cancel => report.cancelled_clean += clean,
            Kind::Busy => report.rejected_clean += clean,
            Kind::Call | Kind::Late | Kind::Silent | Kind::Twice => report.completed += clean,
        }
    }
    let [replies, acks, cancels] = before;
    report.stray_replies = strays("stray_reply") - replies;
    report.stray_acks = strays("stray_ack") - acks;
    report.stray_cancels = strays("stray_cancel") - cancels;
    Ok((report, datagrams))
}

impl Report {
    /// ACKs and CANCELs at an edge without their transaction.
    #[must_use]
    pub const fn stray(&self) -> u64 {
        self.stray_acks + self.stray_cancels
    }

    /// Fails unless everything of the usual load went well: every call clean, nothing stray.
    ///
    /// # Errors
    /// Something did not; the message holds the report.
    pub fn ensure_perfect(&self, load: &Load) -> Result<()> {
        let wanted = |kinds: &[Kind]| {
            u64::from(load.count) * load.kinds.iter().filter(|kind| kinds.contains(kind)).count() as u64
        };
        let clean = [self.completed, self.cancelled_clean, self.rejected_clean];
        let all = [
            wanted(&[Kind::Call, Kind::Late, Kind::Silent, Kind::Twice]),
            wanted(&[Kind::Cancel]),
            wanted(&[Kind::Busy]),
        ];
        ensure!(clean == all, "of {all:?} calls (completed, cancelled, rejected) only {clean:?} went well: {self:?}");
        let stray = self.stray_replies + self.stray();
        ensure!(stray == 0, "{stray} messages reached an edge without their transaction: {self:?}");
        Ok(())
    }
}

/// Fails where messages of one transaction (one Call-ID and CSeq number) were seen by the proxies of two edges.
///
/// # Errors
/// One was; the message names it.
pub fn ensure_one_edge_each(edges: &[Kamailio]) -> Result<()> {
    let mut seen: HashMap<(String, String), String> = HashMap::new();
    for event in edges.iter().flat_map(Kamailio::events) {
        let (call, cseq, edge) = (event.word("callid"), event.word("cseq"), event.word("edge"));
        if cseq.is_empty() {
            continue;
        }
        let first = seen.entry((call.to_owned(), cseq.to_owned())).or_insert_with(|| edge.to_owned());
        ensure!(first == edge, "messages of {call} with CSeq {cseq} reached the proxies of edges {first} and {edge}");
    }
    ensure!(!seen.is_empty(), "no proxy logged a transaction");
    Ok(())
}

/// Fails where the caller got answers of one transaction from two edges, as their X-Edge and Server headers say.
///
/// # Errors
/// It did, or the capture holds no answer.
pub fn ensure_one_edge_answers(datagrams: &[Datagram], family: Family) -> Result<()> {
    let client = Host::Client.address(family);
    let mut seen: HashMap<(String, String), String> = HashMap::new();
    let answers =
        datagrams.iter().filter(|datagram| datagram.destination.0 == client && datagram.source.0 == family.vip());
    for answer in answers.filter(|answer| answer.payload.starts_with(b"SIP/2.0 ")) {
        let edge =
            answer.header("X-Edge").or_else(|| answer.header("Server")?.strip_prefix("edge-").map(str::to_owned));
        let (call, cseq) = (answer.header("Call-ID").unwrap_or_default(), answer.header("CSeq").unwrap_or_default());
        let edge = edge.with_context(|| format!("an answer of {call} does not say which edge sent it"))?;
        let number = cseq.split_whitespace().next().unwrap_or_default().to_owned();
        let first = seen.entry((call.clone(), number)).or_insert_with(|| edge.clone());
        ensure!(*first == edge, "edges {first} and {edge} both answered {call} with CSeq {cseq}");
    }
    ensure!(!seen.is_empty(), "no edge answered");
    Ok(())
}

/// Each kind with its clean calls and all calls.
fn calls(lab: &Lab, load: &Load) -> Result<Vec<(Kind, u64, u64)>> {
    let mut pairs = Vec::new();
    for kind in &load.kinds {
        pairs.push((*kind, Sipp::callee(lab, *kind, load.family, load.shape)?, None));
    }
    for (kind, _, caller) in &mut pairs {
        *caller = Some(Sipp::caller(lab, *kind, load.family, (load.count, load.rate), load.shape)?);
    }
    let deadline = Duration::from_secs(u64::from(load.count.div_ceil(load.rate))) + TAIL;
    let mut found = Vec::new();
    for (kind, callee, caller) in &mut pairs {
        let Some(caller) = caller else { bail!("a caller was not started") };
        let calls = caller.finish(deadline)?;
        let answered = callee.stop()?;
        found.push((*kind, clean(calls, answered), calls.calls));
    }
    Ok(found)
}

/// A call is clean where both ends say so; the lower count is the bound that holds for both.
fn clean(caller: Counts, callee: Counts) -> u64 {
    caller.successful.min(callee.successful)
}

fn forwarded(cluster: Option<&Cluster>) -> Result<u64> {
    let Some(cluster) = cluster else { return Ok(0) };
    Ok(cluster.outcomes()?.sum("forwarded"))
}
