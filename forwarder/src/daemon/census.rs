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
    status::Status,
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
    /// Starts to count the claims of `node` and of all others.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub(super) fn start(claims: Arc<Table>, node: NodeId) -> Result<Self> {
        let (sender, questions) = mpsc::sync_channel(WAITING);
        let body = move || answer(&questions, Instant::now, || claims.live(node, Tick::at(dataplane::monotonic_ns())));
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
fn answer(questions: &mpsc::Receiver<Question>, now: impl Fn() -> Instant, count: impl Fn() -> (u64, u64)) {
    let mut last: Option<(Instant, (u64, u64))> = None;
    while let Ok((mut status, answer)) = questions.recv() {
        let (_, counts) = match last.filter(|(until, _)| now() < *until) {
            Some(last) => last,
            None => {
                let start = now();
                let counts = count();
                let end = now();
                *last.insert((end + (end - start) * SHARE, counts))
            }
        };
        (status.claims.own, status.claims.peers) = counts;
        let _ = answer.send(Response::Status(status));
    }
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
            || clock.get(),
            || {
                counted.set(counted.get() + 1);
                clock.set(clock.get() + Duration::from_millis(27));
                (counted.get(), 7)
            },
        );
        assert_eq!(counted.get(), 1);
        for (node, answer) in (0..).zip(answers) {
            let Ok(Response::Status(status)) = answer.blocking_recv() else { panic!("no status") };
            assert_eq!((status.node, status.claims.own, status.claims.peers), (node, 1, 7));
        }
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
