//! A node with a good certificate says whatever it likes: the others' links, calls and memory are not its to take.
//! `cargo xtask hostile` plays the same for longer.

use anyhow::{Result, ensure};
use tests::hostile::{Act, Attack, EDGES, attack};
use tests::lab::{Family, Lab};

/// How long it acts, and how long the others are watched after it is gone, in seconds.
const ACTS_S: u64 = 24;
const AFTER_S: u64 = 20;
/// What a daemon may grow by, in KiB: a store of 65536 claims, logs of what is said, and what waits on links.
const MOST_KIB: u64 = 96 * 1024;

#[test]
fn a_node_that_says_everything_there_is_harms_nobody_but_itself_v4() -> Result<()> {
    says(Family::V4, &Act::ALL, 1)
}

#[test]
fn a_node_that_keeps_to_the_protocol_and_means_harm_harms_nobody_but_itself_v6() -> Result<()> {
    let acts: Vec<Act> = Act::ALL.into_iter().filter(|act| act.keeps_to_protocol()).collect();
    says(Family::V6, &acts, 2)
}

fn says(family: Family, acts: &[Act], seed: u64) -> Result<()> {
    Lab::alone_with_edges(EDGES)?.test(|lab| {
        let played = Attack { acts_s: ACTS_S, after_s: AFTER_S, acts: acts.to_vec(), tunnels: true, seed };
        let report = attack(lab, family, &played)?;
        eprint!("{report}");
        ensure!(report.links > 2, "the hostile node was hardly linked\n{report}");
        ensure!(report.said.len() > acts.len() / 2, "it hardly said anything\n{report}");
        report.ensure_harmless(MOST_KIB)
    })
}
