//! Whole packets that bytes make up, in all odd forms, through the loaded programs: what they do is what the host's
//! readers and rules say, or they punt. Needs root.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use test_support::{programs::play::Nodes, random::Random};

/// Packets of one run, and how many of them find the node standing as the one before.
const PACKETS: usize = 20_000;
const RUN: usize = 20;
/// Choices that one packet may make.
const CHOICES: usize = 400;
/// Ends that packets come to.
#[rustfmt::skip] // one a line would fill a page
const REACHED: [&str; 41] = [
    "decap_answer", "decap_answered", "decap_asked", "decap_bad_tag", "decap_fragment", "decap_injected",
    "decap_malformed", "decap_not_service", "decap_relayed", "decap_unknown_peer", "decapsulated", "diverted",
    "egress_claimed", "egress_foreign", "egress_fragment", "egress_no_claim", "egress_not_service", "egress_other",
    "egress_owner", "egress_punted", "extension_header", "forwarded", "forwarded_fragment", "fragment", "keep_alive",
    "local_alone", "local_new", "local_owner", "malformed", "not_service", "not_sip", "relayed", "too_big",
    "unknown_ack", "unknown_branch", "unknown_cancel", "unknown_response", "unread_bounds", "unread_form",
    "unread_incomplete", "punted_unread",
];

#[test]
fn whole_packets_meet_in_the_programs_what_the_host_says_they_do() {
    let mut nodes = Nodes::load();
    let mut random = Random::new(0x9ac4e75);
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    let mut stand = 0;
    for packet in 0..PACKETS {
        if packet % RUN == 0 {
            stand = random.below(256);
        }
        let mut data: Vec<u8> = (0..CHOICES).map(|_| random.below(256) as u8).collect();
        data[1] = stand as u8;
        let played = catch_unwind(AssertUnwindSafe(|| nodes.play(&data)));
        let Ok(outcome) = played else { panic!("packet {packet}: {data:02x?}") };
        *outcomes.entry(outcome.name()).or_default() += 1;
    }
    // Punts that depend on what the daemon has taken in this second are not among them.
    let missed: Vec<_> = REACHED.iter().filter(|name| !outcomes.contains_key(**name)).collect();
    assert!(missed.is_empty(), "no packet ended in {missed:?}, but in {outcomes:?}");
}
