//! A peer whose link stands and who answers no question: it is asked, and nobody waits for it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::forwarder::{Authority, Config, Daemon};
use tests::lab::{Family, Host, Lab, Spray};
use tests::poll::poll_until_true;
use tests::silent::Silent;
use tests::traffic::{Endpoint, Sip, vip};

/// Longer than a question is open: whoever waits for the silent peer waits for that second.
const HOLD_MS: u64 = 5000;
/// When a question ends that somebody is waited for.
const QUESTION: Duration = Duration::from_secs(1);
/// Questions that the silent peer leaves unanswered until it is known.
const UNANSWERED: u32 = 5;
/// Questions of which one at least must end sooner, on a machine that is busy with other things.
const TRIES: u32 = 20;
const LONG: Duration = Duration::from_secs(30);

#[test]
fn questions_end_when_all_have_answered_but_the_silent_peer_v4() -> Result<()> {
    nobody_waits_for_the_silent(Family::V4)
}

#[test]
fn questions_end_when_all_have_answered_but_the_silent_peer_v6() -> Result<()> {
    nobody_waits_for_the_silent(Family::V6)
}

fn nobody_waits_for_the_silent(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let authority = Authority::init(&lab.folder().join("pki"), "lab")?;
        let configs = [1, 2, 3].map(|edge| {
            let mut config = Config::new(lab, &authority, edge, family);
            config.timers.insert("hold_ms", HOLD_MS.to_string());
            config
        });
        for edge in [1, 2, 3] {
            authority.issue(edge, &Host::Edge(edge).address(family).to_string())?;
        }
        let [one, two, three] = configs;
        let mut first = Daemon::start(lab, 1, &one)?;
        let mut second = Daemon::start(lab, 2, &two)?;
        let silent = Silent::start(lab, 3, &three)?;
        first.wait_for_peers(2)?;
        second.wait_for_peers(2)?;
        lab.spray(&Spray::To(1))?;
        let (client, _proxy) = (Endpoint::client(lab, family)?, Endpoint::proxy(lab, 1, family)?);

        let mut replies = 0;
        let mut ask = |first: &Daemon| -> Result<Duration> {
            let call_id = format!("nobodys-{replies}");
            let call = Sip { call_id: &call_id, cseq: 1, method: "INVITE", branch: "z9hG4bKnobody", via: vip(family) };
            let begin = Instant::now();
            client.send(call.response("180 Ringing").as_slice(), vip(family))?;
            replies += 1;
            poll_until_true("the reply is let go", LONG, || Ok(first.outcomes()?.of("slow_released") == replies))?;
            Ok(begin.elapsed())
        };
        for _ in 0..UNANSWERED {
            let waited = ask(&first)?;
            // At first it is waited for, like any peer.
            ensure!(replies_asked(&first)? > 0 && waited < LONG, "nobody was asked");
        }
        let mut shortest = LONG;
        for _ in 0..TRIES {
            shortest = shortest.min(ask(&first)?);
            if shortest < QUESTION / 2 {
                break;
            }
        }
        ensure!(shortest < QUESTION, "each of {TRIES} questions waits for the silent peer, {shortest:?} at least");
        ensure!(first.peers_up()? == 2, "the silent peer is a peer all the same");
        silent.stop()
    })
}

/// Copies of questions that were sent.
fn replies_asked(daemon: &Daemon) -> Result<u64> {
    let status = daemon.status()?;
    let count = status.pointer("/replication/asks_sent").and_then(Value::as_u64);
    count.context("find asks_sent in the status")
}
