//! Faults of all sorts by chance, one on top of the other, and all of them over before the traffic ends.

use fastrand::Rng;

use super::super::{fault::Fault, network::REGIONS};

/// Seconds of traffic.
pub(super) const TRAFFIC_S: u64 = 70;
/// Nothing happens before, in seconds.
const BEGIN_S: f64 = 2.0;
/// Nothing begins from then on, in seconds.
const QUIET_S: f64 = 42.0;
/// All is as it was from then on, in seconds.
const END_S: f64 = 50.0;
/// Links come back within the longest pause between two calls, the grace of the higher node id included.
const HEALED_S: f64 = 60.0;
/// Mean pause between two faults in seconds.
const PAUSE_S: f64 = 1.2;

/// What happens when, in seconds.
pub(super) fn faults(nodes: usize, seed: u64) -> Vec<(f64, Fault)> {
    // Another sequence than that of the game itself.
    let mut rng = Rng::with_seed(seed ^ 0x5bd1_e995);
    let mut faults = vec![
        (0.0, Fault::Phase("before")),
        (BEGIN_S, Fault::Phase("chaos")),
        (END_S, Fault::Phase("healing")),
        (HEALED_S, Fault::Phase("after")),
    ];
    let mut at_s = BEGIN_S;
    while at_s < QUIET_S {
        let host = rng.usize(0..nodes);
        one(&mut faults, &mut rng, host, at_s);
        at_s -= PAUSE_S * (1.0 - rng.f64()).ln();
    }
    for (at_s, fault) in &mut faults {
        if !matches!(fault, Fault::Phase(_)) {
            *at_s = at_s.min(END_S - 0.5);
        }
    }
    // Whatever came in the way of an end before.
    for host in 0..nodes {
        faults.extend([Fault::Boot(host), Fault::StartProxy(host), Fault::StartDaemon(host)].map(|end| (END_S, end)));
        faults.push((END_S + 0.5, Fault::Undrain(host)));
    }
    faults
}

/// A fault and its end.
fn one(faults: &mut Vec<(f64, Fault)>, rng: &mut Rng, host: usize, at_s: f64) {
    let mut for_a_while = |rng: &mut Rng, begin, end, from_s, to_s| {
        faults.push((at_s, begin));
        faults.push((at_s + between(rng, from_s, to_s), end));
    };
    match rng.u32(0..100) {
        0..25 => {
            let ms = (between(rng, 0.1, 8.0) * 1000.0) as u64;
            // Not beyond the end, so that all daemons run by then.
            faults.push((at_s, Fault::Stall(host, ms.min(((END_S - at_s) * 1000.0) as u64))));
        }
        25..40 => for_a_while(rng, Fault::KillDaemon(host), Fault::StartDaemon(host), 0.1, 15.0),
        40..50 => for_a_while(rng, Fault::StopDaemon(host), Fault::StartDaemon(host), 0.1, 8.0),
        50..60 => for_a_while(rng, Fault::Drain(host), Fault::Undrain(host), 2.0, 12.0),
        60..65 => faults.push((at_s, Fault::RestartProxy(host))),
        65..70 => for_a_while(rng, Fault::StopProxy(host), Fault::StartProxy(host), 0.1, 5.0),
        70..80 => for_a_while(rng, Fault::CutHost(host), Fault::HealHost(host), 0.2, 8.0),
        80..85 => {
            let region = rng.usize(0..REGIONS.len());
            for_a_while(rng, Fault::CutRegion(region), Fault::HealRegion(region), 0.5, 8.0);
        }
        85..93 => {
            let mut flap_s = at_s;
            for _ in 0..rng.usize(3..8) {
                faults.push((flap_s, Fault::CutHost(host)));
                faults.push((flap_s + between(rng, 0.1, 1.5), Fault::HealHost(host)));
                flap_s += between(rng, 0.3, 2.0);
            }
        }
        _ => for_a_while(rng, Fault::Crash(host), Fault::Boot(host), 1.0, 8.0),
    }
}

/// A time in seconds: as many below the middle of the orders of magnitude as above.
fn between(rng: &mut Rng, from_s: f64, to_s: f64) -> f64 {
    from_s * (to_s / from_s).powf(rng.f64())
}
