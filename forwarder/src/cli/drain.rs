//! `drain` and `undrain`: what to say of them, and the waiting.

use std::{io::Write, thread, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::control::{Drain, Request, Response};

/// How often the daemon is asked how far the drain has come.
const PAUSE: Duration = Duration::from_secs(1);
/// Seconds of draining before nothing left is taken for the end: of what the proxy got just before, it has said
/// something by then.
const SETTLED_S: u64 = 5;
/// Answers without a change after which the progress is shown all the same.
const QUIET: u32 = 10;

/// Takes the node out of service, and waits for the end of all that it owned if that is wanted.
pub(super) fn drain(ask: impl Fn(Request) -> Result<Response>, wait: bool, out: &mut dyn Write) -> Result<()> {
    let begun = answer(ask(Request::Drain)?)?;
    say(out, &began(&begun))?;
    if wait { follow(|| answer(ask(Request::Progress)?), || thread::sleep(PAUSE), begun, out) } else { Ok(()) }
}

/// Takes the node back into service.
pub(super) fn undrain(ask: impl Fn(Request) -> Result<Response>, out: &mut dyn Write) -> Result<()> {
    let Drain { changed, .. } = answer(ask(Request::Undrain)?)?;
    say(out, if changed { "back in service" } else { "it was in service already" })
}

fn answer(response: Response) -> Result<Drain> {
    let Response::Drain(drain) = response else {
        bail!("the daemon has answered another question; hint: use the forwarder's own version")
    };
    Ok(drain)
}

fn say(out: &mut dyn Write, line: &str) -> Result<()> {
    // Whoever waits wants to see it now.
    writeln!(out, "{line}").and_then(|()| out.flush()).context("write the answer")
}

fn began(drain: &Drain) -> String {
    let when = if drain.changed { "draining".to_owned() } else { format!("draining already, for {} s", drain.since_s) };
    let who = match drain.takers {
        0 => "no peer is up to take new transactions, so this node goes on serving them".to_owned(),
        1 => "1 peer takes new transactions".to_owned(),
        many => format!("{many} peers take new transactions"),
    };
    format!("{when}: {who}")
}

fn follow(ask: impl Fn() -> Result<Drain>, pause: impl Fn(), mut last: Drain, out: &mut dyn Write) -> Result<()> {
    let mut quiet = 0;
    say(out, &left(&last))?;
    while last.transactions > 0 || last.since_s < SETTLED_S {
        pause();
        let now = ask().context("wait for the end of the drain, which goes on all the same")?;
        if !now.draining {
            bail!("wait for the end of the drain: somebody has taken the node back into service");
        }
        quiet += 1;
        if now.transactions != last.transactions || quiet >= QUIET {
            quiet = 0;
            say(out, &left(&now))?;
        }
        last = now;
    }
    let since = match last.transactions_since {
        0 => String::new(),
        many => format!("; the proxy has begun {many} since by itself"),
    };
    say(out, &format!("drained: no message needs a transaction of this node any more{since}"))
}

fn left(drain: &Drain) -> String {
    let many = match drain.transactions {
        0 => return "no transaction is left".to_owned(),
        1 => "1 transaction is left, and ends".to_owned(),
        many => format!("{many} transactions are left, and the last one ends"),
    };
    format!("{many} within {} s", drain.last_ends_in_ms.div_ceil(1000))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn progress(transactions: u64, last_ends_in_ms: u64) -> Drain {
        Drain { draining: true, since_s: SETTLED_S, takers: 2, transactions, last_ends_in_ms, ..Drain::default() }
    }

    /// What is shown when the daemon answers these, and how it ends.
    fn shown(answers: Vec<Result<Drain>>) -> (String, Result<()>) {
        let mut out = Vec::new();
        let answers = RefCell::new(answers.into_iter());
        let next = || answers.borrow_mut().next().unwrap();
        let begun = next().unwrap();
        let done = follow(|| answers.borrow_mut().next().unwrap(), || (), begun, &mut out);
        (String::from_utf8(out).unwrap(), done)
    }

    #[test]
    fn a_wait_ends_when_nothing_is_left_and_shows_what_changes() {
        let last = Drain { transactions_since: 3, ..progress(0, 0) };
        let (text, done) =
            shown(vec![Ok(progress(12, 38_200)), Ok(progress(12, 37_200)), Ok(progress(1, 36_200)), Ok(last)]);
        done.unwrap();
        let expected = "\
12 transactions are left, and the last one ends within 39 s
1 transaction is left, and ends within 37 s
no transaction is left
drained: no message needs a transaction of this node any more; the proxy has begun 3 since by itself
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_wait_does_not_end_before_the_proxy_has_had_time_to_speak() {
        let early = Drain { since_s: SETTLED_S - 1, ..progress(0, 0) };
        let (text, done) = shown(vec![Ok(early), Ok(progress(1, 40_000)), Ok(progress(0, 0))]);
        done.unwrap();
        assert!(text.contains("1 transaction is left, and ends within 40 s\n"), "{text}");
    }

    #[test]
    fn a_long_wait_shows_that_it_lives() {
        let answers = (0..=QUIET).map(|_| Ok(progress(1, 5000))).chain([Ok(progress(0, 0))]);
        let (text, done) = shown(answers.collect());
        done.unwrap();
        assert_eq!(text.matches("1 transaction is left, and ends within 5 s\n").count(), 2);
    }

    #[test]
    fn a_wait_fails_when_the_daemon_goes_or_the_node_is_taken_back() {
        let (_, done) = shown(vec![Ok(progress(1, 5000)), Err(anyhow::anyhow!("no forwarder answers"))]);
        let error = format!("{:#}", done.unwrap_err());
        assert!(error == "wait for the end of the drain, which goes on all the same: no forwarder answers");
        let (_, done) = shown(vec![Ok(progress(1, 5000)), Ok(Drain::default())]);
        let error = done.unwrap_err().to_string();
        assert_eq!(error, "wait for the end of the drain: somebody has taken the node back into service");
    }

    #[test]
    fn every_way_to_begin_is_said() {
        let table = [
            (true, 2, "draining: 2 peers take new transactions"),
            (true, 1, "draining: 1 peer takes new transactions"),
            (false, 2, "draining already, for 9 s: 2 peers take new transactions"),
            (true, 0, "draining: no peer is up to take new transactions, so this node goes on serving them"),
        ];
        for (changed, takers, expected) in table {
            assert_eq!(began(&Drain { changed, takers, since_s: 9, ..progress(0, 0) }), expected);
        }
    }

    #[test]
    fn an_undrain_says_whether_there_was_one() {
        for (changed, expected) in [(true, "back in service\n"), (false, "it was in service already\n")] {
            let mut out = Vec::new();
            undrain(|_| Ok(Response::Drain(Drain { changed, ..Drain::default() })), &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        let other = undrain(|_| Ok(Response::Owner(crate::control::Owner::default())), &mut Vec::new());
        assert!(other.unwrap_err().to_string().contains("another question"));
    }
}
