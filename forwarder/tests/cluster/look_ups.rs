//! Asks for keys that only the owner's kernel knows, in virtual time.

use forwarder::cluster::core::{Now, Output};
use forwarder::cluster::wire::{Ask, Message};
use forwarder_common::ids::Epoch;

use super::mesh::{self, Mesh, START_UNIX_US, id};

const LIFETIME_MS: u64 = 37_000;
/// Longest life of an ask.
const PATIENCE_US: u64 = 1_000_000;
/// There and back at 100 µs each way.
const ROUND_TRIP_US: u64 = 200;

#[test]
fn a_claim_that_only_the_owners_kernel_knows_is_found_by_asking_and_then_known_to_all() {
    let mut mesh = Mesh::linked(3, 1);
    let mine = (id(2), Epoch::new(0), LIFETIME_MS);
    mesh.kernels.get_mut(&id(2)).unwrap().claims.extend([(7, mine), (8, mine)]);
    let start = mesh.now_us;
    mesh.ask(id(1), 5, 7, 8);
    mesh.run_for(10_000);
    assert_eq!(mesh.answers(id(1), start), [(5, true, ROUND_TRIP_US)]);
    assert_eq!([7, 8].map(|key| mesh.owners(key)), [[Some(2); 3], [Some(2); 3]]);
}

#[test]
fn a_shell_that_looks_nothing_up_leaves_nothing_behind() {
    let mut node = mesh::alone(id(1));
    let now = Now { monotonic_us: 1, unix_us: START_UNIX_US };
    node.handle_link_up(id(2), now);
    node.handle_message(id(2), &Message::Hello(mesh::hello(id(2), 1, 0)).encode(), now).unwrap();
    for number in 0..5000 {
        let ask = Message::Ask(vec![Ask { number, request_key: number, reply_key: 0 }]).encode();
        node.handle_message(id(2), &ask, now).unwrap();
    }
    let outputs: Vec<Output> = std::iter::from_fn(|| node.poll_output()).collect();
    let looks = outputs.iter().filter(|output| matches!(output, Output::LookUp { .. })).count();
    assert_eq!(
        (looks, node.counters().asks_answered),
        (4096, 5000 - 4096),
        "what is beyond is answered by what is known"
    );
    let late = Now { monotonic_us: 1 + PATIENCE_US, ..now };
    node.handle_timeout(late);
    node.handle_looked_up(0, &[], late);
    let mut answers = std::iter::from_fn(|| node.poll_output());
    assert!(answers.all(|output| !matches!(output, Output::Send { .. })), "nobody waits for it any more");
}
