//! Counts the unexpired claims for `status` and metrics, on a thread of its own.
//!
//! A walk over the table of 16.7 million claims reads 268 MB. The loop does everything else of a status and hands it
//! over here; the answer goes from here to whoever has asked.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result};
use forwarder_common::ids::{NodeId, Tick};
use tokio::sync::oneshot;

use crate::{
    control::Response,
    dataplane::{self, Table},
    status::{CLAIMS_WARNED_PERCENT, Claims, Status},
};

/// Statuses that wait for a count: more than the loop takes questions at a time.
const WAITING: usize = 64;
/// How long a count is good for, in times it has taken: counting takes an eleventh of a CPU at most, however many ask.
const SHARE: u32 = 10;

/// A status without its counts, and where it goes.
type Question = (Box<Status>, oneshot::Sender<Response>);

/// The thread's end in the loop; it ends with this.
#[derive(Debug)]
pub(super) struct Census(mpsc::SyncSender<Question>);

impl Census {
    /// Starts to count the claims of all nodes; `node` is this one.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub(super) fn start(claims: Arc<Table>, node: NodeId) -> Result<Self> {
        let (sender, questions) = mpsc::sync_channel(WAITING);
        let count = move || claims.by_owner(Tick::at(dataplane::monotonic_ns()));
        let body = move || answer(&questions, node, Instant::now, count);
        thread::Builder::new().name("census".to_owned()).spawn(body).context("start the thread that counts claims")?;
        Ok(Self(sender))
    }

    /// Completes a status and answers with it. Does not wait.
    pub(super) fn answer(&self, status: Box<Status>, answer: oneshot::Sender<Response>) {
        if let Err(mpsc::TrySendError::Full((_, answer)) | mpsc::TrySendError::Disconnected((_, answer))) =
            self.0.try_send((status, answer))
        {
            // Whoever asked may have gone, here and below.
            let _ = answer.send(Response::Error("too many ask at once".to_owned()));
        }
    }
}

/// Answers until the loop has ended, by the clock `now`.
fn answer(questions: &mpsc::Receiver<Question>, node: NodeId, now: impl Fn() -> Instant, count: impl Fn() -> Vec<u64>) {
    let mut last: Option<(Instant, Vec<u64>)> = None;
    while let Ok((mut status, answer)) = questions.recv() {
        let (_, counts) = match last.take_if(|(until, _)| now() < *until) {
            Some(good) => last.insert(good),
            None => {
                let start = now();
                let counts = count();
                let end = now();
                last.insert((end + (end - start) * SHARE, counts))
            }
        };
        fill(&mut status, node, counts);
        let _ = answer.send(Response::Status(status));
    }
}

/// Puts the counts by node into a status.
fn fill(status: &mut Status, node: NodeId, counts: &[u64]) {
    let claims = &mut status.claims;
    claims.by_owner = (0..).zip(counts).filter(|(_, count)| **count != 0).map(|(node, count)| (node, *count)).collect();
    claims.own = claims.by_owner.get(&node.number()).copied().unwrap_or_default();
    claims.peers = claims.by_owner.values().sum::<u64>() - claims.own;
    status.warnings.extend(warning(&status.claims));
}

/// What is to be said of a table that fills up.
fn warning(claims: &Claims) -> Option<String> {
    let percent = claims.percent();
    let (most, count) = claims.by_owner.iter().max_by_key(|(_, count)| **count)?;
    (percent >= CLAIMS_WARNED_PERCENT).then(|| {
        let used = claims.own + claims.peers;
        format!(
            "the claim table is {percent} % full: {used} claims, of which node {most} has {count}; set `claims` higher"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use super::*;

    #[test]
    fn many_questions_at_once_are_answered_by_few_counts() {
        let (sender, questions) = mpsc::sync_channel(WAITING);
        let mut answers = Vec::new();
        for node in 0..WAITING as u16 {
            let (answer, waits) = oneshot::channel();
            sender.send((Box::new(Status { node, ..Status::default() }), answer)).unwrap();
            answers.push(waits);
        }
        drop(sender);
        let (counted, clock) = (Cell::new(0), Cell::new(Instant::now()));
        answer(
            &questions,
            NodeId::new(1).unwrap(),
            || clock.get(),
            || {
                counted.set(counted.get() + 1);
                clock.set(clock.get() + Duration::from_millis(27));
                vec![0, counted.get(), 3, 4]
            },
        );
        assert_eq!(counted.get(), 1);
        for (node, answer) in (0..).zip(answers) {
            let Ok(Response::Status(status)) = answer.blocking_recv() else { panic!("no status") };
            assert_eq!((status.node, status.claims.own, status.claims.peers), (node, 1, 7));
        }
    }

    #[test]
    fn a_table_that_fills_up_is_warned_of_and_who_has_most_of_it() {
        let warned = |own, theirs| {
            let mut status = Status { claims: Claims { capacity: 1000, ..Claims::default() }, ..Status::default() };
            fill(&mut status, NodeId::new(1).unwrap(), &[0, own, theirs]);
            assert_eq!((status.claims.own, status.claims.peers), (own, theirs));
            status.warnings
        };
        assert_eq!(warned(400, 399), [""; 0]);
        let said = "the claim table is 80 % full: 800 claims, of which node 2 has 500; set `claims` higher";
        assert_eq!(warned(300, 500), [said]);
    }

    #[test]
    fn who_asks_when_too_many_wait_is_told_so() {
        let (sender, _questions) = mpsc::sync_channel(1);
        let census = Census(sender);
        let ask = || {
            let (answer, waits) = oneshot::channel();
            census.answer(Box::default(), answer);
            waits
        };
        let (mut first, mut second) = (ask(), ask());
        assert!(first.try_recv().is_err(), "it waits");
        assert_eq!(second.try_recv(), Ok(Response::Error("too many ask at once".to_owned())));
    }
}
