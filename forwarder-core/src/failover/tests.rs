use super::{
    timers::{AWAY_US, FRESH_US, LEASE_RENEWAL_US, LINK_IDLE_US, PATH_US, STALL_NOTICE_US},
    *,
};

mod last;

const SECOND: u64 = 1_000_000;
const SERVICE: &str = "192.0.2.10:5060";

fn id(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

/// A node that an earlier daemon left with these peers up.
fn inherited(peers_up: &[u16], drains: bool) -> Inherited {
    let given = (!peers_up.is_empty()).then(|| Given { services: vec![Epoch::new(3)] });
    let lease = Lease { diverts: false, drains, until_us: 0 };
    Inherited { given, peers_up: peers_up.iter().copied().map(id).collect(), lease }
}

/// The machine with a loop that is in time, and what the shell was told.
struct World {
    machine: Failover,
    now_us: u64,
    is_synchronised: bool,
    /// Peers whose programs answer at once, though their daemons are dead.
    answering: Vec<u16>,
    told: Vec<Output>,
}

impl World {
    fn new(proxies: Vec<Proxy>, inherited: Inherited) -> Self {
        let services = proxies.into_iter().map(|proxy| (SERVICE.parse().unwrap(), proxy)).collect();
        let settings = Settings {
            node: id(1),
            services,
            has_seeds: true,
            keep_up: 0,
            inherited,
            first_epoch: Epoch::new(5),
            first_ticket: 7,
        };
        let machine = Failover::new(settings, 0);
        let mut world = Self { machine, now_us: 0, is_synchronised: false, answering: Vec::new(), told: Vec::new() };
        world.turn();
        world
    }

    /// A node without probes that serves, with these peers linked, up and known.
    fn serving(peers: &[u16]) -> Self {
        let mut world = Self::new(vec![Proxy::new(None, BTreeSet::new())], inherited(&[], false));
        peers.iter().for_each(|peer| world.link(*peer));
        world.is_synchronised = true;
        world.turn();
        assert_eq!(world.machine.role(), Role::Serving);
        world.told.clear();
        world
    }

    fn turn(&mut self) {
        self.machine.handle_turn(|| self.is_synchronised, self.now_us);
        self.take();
    }

    fn take(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            if let Output::Probe { node, ticket } = output
                && self.answering.contains(&node.number())
            {
                let answer = Answer { held: None, epochs: Epochs::from_bits(1), has_daemon: false };
                self.machine.handle_answer(node, ticket, Time::default(), answer, self.now_us);
            }
            self.told.push(output);
        }
    }

    /// The loop goes on in time until `until_us`.
    fn run_until(&mut self, until_us: u64) {
        while self.now_us < until_us {
            let due_us = self.machine.poll_timeout(self.now_us);
            self.now_us = due_us.clamp(self.now_us + 1, until_us);
            self.turn();
        }
    }

    /// The loop does not run for so long.
    fn stall(&mut self, for_us: u64) {
        self.now_us += for_us;
    }

    fn link(&mut self, peer: u16) {
        self.machine.handle_link_up(id(peer), "10.9.3.2:7470".parse().unwrap(), &[], false, self.now_us);
        let underlay = "10.9.3.2".parse().unwrap();
        let said = Introduction {
            state: State::Up,
            is_silent: false,
            epochs: Epochs::from_bits(1),
            underlay,
            served: Served::ALL,
        };
        self.machine.handle_introduction(id(peer), said, self.now_us);
        self.take();
    }

    fn unlink(&mut self, peer: u16, end: LinkEnd) {
        self.machine.handle_link_down(id(peer), end, "so it is".to_owned(), self.now_us);
        self.take();
    }

    fn evidence(&mut self, evidence: &Evidence) {
        self.machine.handle_evidence(0, evidence, self.now_us);
        self.take();
    }

    /// What was told since the last call, as words: states, epochs, punts, leases' flags where they change, peers.
    fn words(&mut self) -> String {
        let word = |output: Output| match output {
            Output::State { old, new, .. } => (old != new).then(|| format!("{}>{}", old.name(), new.name())),
            Output::Epochs(_) => Some("epoch".to_owned()),
            Output::OpenPunts => Some("open".to_owned()),
            Output::ClosePunts => Some("close".to_owned()),
            Output::GiveUp(peer) => Some(format!("give-up-{}", peer.number())),
            Output::TakeDown(peer) => Some(format!("take-down-{}", peer.number())),
            Output::Note(Note::Stalled { cut_off, .. }) => Some(if cut_off { "cut-off" } else { "stalled" }.to_owned()),
            Output::Note(Note::Away) => Some("away".to_owned()),
            Output::End => Some("end".to_owned()),
            Output::Introduce { .. }
            | Output::Clock { .. }
            | Output::Probe { .. }
            | Output::Peer { .. }
            | Output::Reassemblers(_)
            | Output::Successors(_)
            | Output::Lease(_)
            | Output::Note(_) => None,
        };
        self.told.drain(..).filter_map(word).collect::<Vec<_>>().join(" ")
    }

    fn last_lease(&self) -> Lease {
        self.machine.told.lease
    }
}

/// What happens to the node's proxy, or its operator says.
#[derive(Clone, Copy)]
enum In {
    Synchronised,
    Drain(bool),
    Answered,
    /// An answer to a probe of this second.
    AnsweredOf(u64),
    Silent,
    /// A probe could not be sent.
    Failed,
    Sockets(&'static [u64]),
}

use In::{Answered, AnsweredOf, Drain, Failed, Silent, Sockets, Synchronised};

fn set(inodes: &[u64]) -> BTreeSet<u64> {
    inodes.iter().copied().collect()
}

/// A node with one proxy that is probed and dead after three failures.
fn probed(inodes: &[u64]) -> World {
    let mut world = World::new(vec![Proxy::new(Some(3), set(inodes))], inherited(&[], false));
    world.told.clear();
    world
}

/// Feeds one input a second from second 1 on, each with the states and epochs that must come of it.
fn run(world: &mut World, table: Vec<(In, &str)>) {
    for (step, (input, expected)) in table.into_iter().enumerate() {
        world.run_until((step as u64 + 1) * SECOND);
        let evidence = match input {
            Synchronised => {
                world.machine.serve();
                world.machine.settle(world.now_us);
                world.take();
                None
            }
            Drain(drains) => {
                world.machine.handle_drain(drains, world.now_us);
                world.take();
                None
            }
            Answered => Some(Evidence::Answered { sent_us: world.now_us }),
            AnsweredOf(second) => Some(Evidence::Answered { sent_us: second * SECOND }),
            Silent => Some(Evidence::Silent),
            Failed => Some(Evidence::Failed("no route".to_owned())),
            Sockets(inodes) => Some(Evidence::Sockets(set(inodes))),
        };
        if let Some(evidence) = evidence {
            world.evidence(&evidence);
        }
        assert_eq!(world.words(), expected, "step {}", step + 1);
    }
}

#[test]
fn a_node_is_up_when_it_has_joined_and_its_proxy_answers_whichever_comes_first() {
    run(&mut probed(&[]), vec![(Synchronised, ""), (Sockets(&[7]), ""), (Answered, "joining>up")]);
    run(&mut probed(&[]), vec![(Answered, ""), (Sockets(&[7]), ""), (Synchronised, "joining>up")]);
}

#[test]
fn a_node_that_hears_of_nobody_is_up_after_five_seconds() {
    let mut world = World::new(vec![Proxy::new(None, BTreeSet::new())], inherited(&[], false));
    assert_eq!(world.words(), "epoch open", "it serves from the start: nobody looks after it");
    world.run_until(JOIN_US - 1);
    assert_eq!((world.words().as_str(), world.machine.state()), ("", (State::Joining, 0)));
    world.run_until(JOIN_US);
    assert_eq!((world.words().as_str(), world.machine.state()), ("joining>up", (State::Up, JOIN_US)));
    world.run_until(3 * JOIN_US);
    assert_eq!(world.words(), "");
}

#[test]
fn silence_in_a_row_is_death_and_as_many_answers_in_a_row_are_life() {
    let table = vec![
        (Synchronised, ""),
        (Answered, "joining>up"),
        (Silent, ""),
        (Silent, ""),
        (Answered, ""),
        (Silent, ""),
        (Silent, ""),
        (Silent, "up>proxy-down"),
        (Silent, ""),
        (Answered, ""),
        (Answered, ""),
        (Silent, ""),
        (Answered, ""),
        (Answered, ""),
        (Answered, "proxy-down>up"),
    ];
    run(&mut probed(&[]), table);
}

#[test]
fn a_proxy_without_a_socket_is_dead_at_once_and_its_claims_with_it() {
    let table = vec![
        (Synchronised, ""),
        (Sockets(&[7]), ""),
        (Answered, "joining>up"),
        (Sockets(&[]), "epoch up>proxy-down"),
        (Sockets(&[]), ""),
        (Silent, ""),
        (Sockets(&[8]), ""),
        (Answered, "proxy-down>up"),
        (Sockets(&[]), "epoch up>proxy-down"),
        (Sockets(&[9, 10]), ""),
        (Answered, "proxy-down>up"),
    ];
    run(&mut probed(&[]), table);
}

#[test]
fn other_sockets_than_before_are_another_run_and_one_that_stayed_is_the_same() {
    let table = vec![
        (Synchronised, ""),
        (Sockets(&[7, 8]), ""),
        (Answered, "joining>up"),
        (Sockets(&[8, 9]), ""),
        (Sockets(&[9]), ""),
        (Sockets(&[10]), "epoch"),
        (Sockets(&[10]), ""),
        (Answered, ""),
    ];
    run(&mut probed(&[]), table);
}

#[test]
fn a_proxy_that_was_restarted_while_no_daemon_ran_begins_another_run() {
    run(&mut probed(&[7]), vec![(Sockets(&[8]), "epoch"), (Answered, ""), (Synchronised, "joining>up")]);
    run(&mut probed(&[7]), vec![(Sockets(&[7]), ""), (Answered, ""), (Synchronised, "joining>up")]);
    run(&mut probed(&[7]), vec![(Sockets(&[]), "epoch"), (Synchronised, "joining>proxy-down")]);
}

#[test]
fn a_death_that_is_seen_twice_is_one_whatever_comes_first() {
    let table = vec![
        (Synchronised, ""),
        (Sockets(&[7]), ""),
        (Answered, "joining>up"),
        (Sockets(&[]), "epoch up>proxy-down"),
        (Sockets(&[8]), ""),
        (Sockets(&[]), ""),
        (Sockets(&[9]), ""),
        (Sockets(&[]), ""),
    ];
    run(&mut probed(&[]), table);
}

#[test]
fn a_proxy_that_answers_before_its_new_socket_is_seen_has_begun_one_run_however_long_it_was_away() {
    let dead = || {
        vec![
            (Synchronised, ""),
            (Sockets(&[7]), ""),
            (Answered, "joining>up"),
            (Sockets(&[]), "epoch up>proxy-down"),
            (Silent, ""),
            (Silent, ""),
            (Answered, "proxy-down>up"),
        ]
    };
    // What it has claimed by then stays.
    run(&mut probed(&[]), [dead(), vec![(Sockets(&[8]), ""), (Sockets(&[9]), "epoch")]].concat());
    // One whose sockets nobody sees goes on answering, and may have been any number of proxies by the time one is seen.
    run(&mut probed(&[]), [dead(), vec![(Answered, ""), (Sockets(&[8]), "epoch")]].concat());
}

#[test]
fn silence_and_probes_that_cannot_be_sent_take_a_node_out_of_service_and_end_no_run() {
    let table = vec![
        (Synchronised, ""),
        (Sockets(&[7]), ""),
        (Answered, "joining>up"),
        (Silent, ""),
        (Failed, ""),
        (Failed, "up>proxy-down"),
        (Sockets(&[7]), ""),
        (Silent, ""),
    ];
    run(&mut probed(&[]), table);
}

#[test]
fn the_last_answer_of_a_dead_proxy_does_not_raise_it() {
    let table = vec![
        (Synchronised, ""),
        (Answered, "joining>up"),
        (Sockets(&[]), "epoch up>proxy-down"),
        (AnsweredOf(2), ""),
        // What answers without a socket here answers all the same, such as through address translation.
        (AnsweredOf(3), "proxy-down>up"),
        (Sockets(&[]), ""),
        (Silent, ""),
        (Silent, ""),
        (Silent, "up>proxy-down"),
        (Sockets(&[8]), ""),
        (Sockets(&[]), "epoch"),
    ];
    run(&mut probed(&[]), table);
}

#[test]
fn a_proxy_says_why_it_is_down() {
    let mut proxy = Proxy::new(Some(2), BTreeSet::new());
    let mut why = |evidence: &Evidence| {
        proxy.handle(evidence, 0);
        match proxy.health() {
            Health::Down(reason) => reason.to_string(),
            other @ (Health::Trusted | Health::Unknown | Health::Alive) => format!("{other:?}"),
        }
    };
    assert_eq!(why(&Evidence::Silent), "Unknown");
    assert_eq!(why(&Evidence::Silent), "2 probes in a row were not answered");
    assert_eq!(why(&Evidence::Failed("no route".to_owned())), "it cannot be probed: no route");
    assert_eq!(why(&Evidence::Sockets(set(&[]))), "no socket is bound to its address");
    assert_eq!(why(&Evidence::Silent), "no socket is bound to its address");
    assert_eq!(why(&Evidence::Sockets(set(&[7]))), "its new socket has not answered yet");
    assert_eq!(why(&Evidence::Silent), "its new socket has not answered yet");
    assert_eq!(why(&Evidence::Silent), "2 probes in a row were not answered");
}

#[test]
fn draining_is_the_operators_word_and_stands_above_all_else() {
    let table = vec![
        (Drain(true), "joining>draining"),
        (Synchronised, ""),
        (Drain(true), ""),
        (Sockets(&[]), "epoch"),
        (Drain(false), "draining>proxy-down"),
        (Sockets(&[8]), ""),
        (Answered, "proxy-down>up"),
        (Drain(true), "up>draining"),
        (Drain(false), "draining>up"),
        (Drain(false), ""),
    ];
    let mut world = probed(&[]);
    run(&mut world, table);
    let machine = &mut world.machine;
    assert!(!machine.handle_drain(false, 0) && machine.handle_drain(true, 5) && !machine.handle_drain(true, 9));
    assert_eq!(machine.draining_since_us(), Some(5));
}

#[test]
fn a_drain_outlives_the_daemon() {
    let mut world = World::new(vec![Proxy::new(None, BTreeSet::new())], inherited(&[], true));
    assert_eq!(world.words(), "epoch joining>draining open");
    assert!(world.last_lease().drains && world.last_lease().diverts);
}

#[test]
fn new_transactions_are_left_to_a_proxy_that_answers_and_to_no_other() {
    let proxies = vec![Proxy::new(Some(1), BTreeSet::new()), Proxy::new(None, BTreeSet::new())];
    let mut world = World::new(proxies, inherited(&[], false));
    let machine = &mut world.machine;
    assert!(machine.diverts(), "nothing is known of the proxy yet");
    machine.handle_evidence(0, &Evidence::Answered { sent_us: 0 }, 0);
    assert!(!machine.diverts(), "joining, but with a proxy");
    machine.handle_drain(true, 0);
    assert!(machine.diverts());
    machine.handle_drain(false, 0);
    machine.handle_evidence(0, &Evidence::Failed("no route".to_owned()), 0);
    assert!(machine.diverts());
    let why = Reason::Failed("no route".to_owned());
    assert_eq!(machine.proxies()[0].health(), &Health::Down(why));
    machine.handle_evidence(1, &Evidence::Sockets(set(&[])), 0);
    assert_eq!(machine.proxies()[1].health(), &Health::Trusted, "it is not probed");
    machine.handle_evidence(2, &Evidence::Sockets(set(&[])), 0);
}

#[test]
fn a_daemon_that_takes_over_from_one_with_peers_lets_them_look_after_its_node_until_it_knows_them() {
    let mut world = World::new(vec![Proxy::new(None, BTreeSet::new())], inherited(&[2, 3], false));
    assert_eq!(world.words(), "epoch");
    assert_eq!(world.last_lease(), Lease { diverts: true, drains: false, until_us: 0 }, "the lease is over");
    world.link(2);
    world.run_until(SECOND);
    assert_eq!(world.words(), "", "node 2's claims are on their way");
    world.is_synchronised = true;
    world.run_until(2 * SECOND);
    assert_eq!(world.words(), "open joining>up");
    assert!(!world.last_lease().diverts && world.last_lease().until_us > 2 * SECOND);
    world.run_until(REJOIN_US - 1);
    assert_eq!(world.words(), "");
    world.run_until(REJOIN_US);
    assert_eq!(world.words(), "take-down-3", "only the one that was not heard of");
}

#[test]
fn a_daemon_that_finds_none_of_its_peers_serves_alone() {
    let mut world = World::new(vec![Proxy::new(None, BTreeSet::new())], inherited(&[2], false));
    world.told.clear();
    world.run_until(JOIN_US);
    let words = world.words();
    assert!(words.contains("open") && words.contains("joining>up") && words.contains("take-down-2"), "{words}");
}

#[test]
fn a_peer_is_down_at_once_or_after_a_grace_as_its_links_end_says() {
    let table = [
        (LinkEnd::Gone, "give-up-2", REJOIN_US, ""),
        (LinkEnd::Silent, "", PATH_US, "give-up-2"),
        (LinkEnd::Leaving, "", REJOIN_US, "give-up-2"),
        (LinkEnd::Well, "", REJOIN_US, "give-up-2"),
    ];
    for (end, at_once, wait_us, later) in table {
        let mut world = World::serving(&[2, 3]);
        world.unlink(2, end);
        assert_eq!(world.words(), at_once, "{end:?}");
        world.run_until(world.now_us + wait_us - 1);
        assert_eq!(world.words(), "", "{end:?}");
        world.run_until(world.now_us + 1);
        assert_eq!(world.words(), later, "{end:?}");
    }
}

#[test]
fn a_peer_whose_programs_answer_keeps_its_claims_for_a_minute_without_a_daemon() {
    let mut world = World::serving(&[2, 3]);
    let since_us = world.now_us;
    world.unlink(2, LinkEnd::Silent);
    world.answering = vec![2];
    world.run_until(since_us + AWAY_US - 1);
    assert_eq!(world.words(), "");
    assert_eq!(world.machine.live_epochs(id(2)), Some(Epochs::from_bits(1)));
    assert_eq!(world.machine.successor(0), Some(id(3)), "nobody would hear of a new claim there");
    world.run_until(since_us + AWAY_US);
    assert_eq!(world.words(), "give-up-2");
}

#[test]
fn a_peer_whose_programs_fall_silent_too_is_down_soon() {
    let mut world = World::serving(&[2, 3]);
    world.unlink(2, LinkEnd::Silent);
    world.answering = vec![2];
    world.run_until(world.now_us + 10 * SECOND);
    assert_eq!(world.words(), "");
    world.answering.clear();
    world.run_until(world.now_us + PATH_US);
    assert_eq!(world.words(), "give-up-2");
}

#[test]
fn a_peer_that_comes_back_within_its_grace_was_never_down() {
    let mut world = World::serving(&[2, 3]);
    world.unlink(2, LinkEnd::Leaving);
    let successor = |world: &World| (0..64).filter_map(|key| world.machine.successor(key)).collect::<BTreeSet<_>>();
    assert_eq!(successor(&world), [id(3)].into(), "it has no daemon that would tell of a claim");
    world.run_until(2 * SECOND);
    world.link(2);
    assert_eq!(successor(&world), [id(2), id(3)].into());
    world.run_until(3 * REJOIN_US);
    assert_eq!(world.words(), "");
}

#[test]
fn a_loop_in_time_renews_the_lease_long_before_it_ends() {
    let mut world = World::serving(&[2]);
    for step in 1..100 {
        world.run_until(step * 10_000);
        let left_us = world.last_lease().until_us - world.now_us;
        assert!(left_us >= LEASE_US - LEASE_RENEWAL_US, "{left_us}");
    }
    assert_eq!(world.words(), "");
}

#[test]
fn a_short_stall_excuses_links_that_end_by_silence_and_for_no_longer_than_a_moment() {
    let mut world = World::serving(&[2, 3, 4]);
    world.stall(STALL_US + 10);
    assert!(world.machine.is_late(world.now_us));
    world.unlink(2, LinkEnd::Silent);
    assert_eq!(world.words(), "stalled", "node 2 is well: this host was away");
    world.unlink(3, LinkEnd::Gone);
    assert_eq!(world.words(), "give-up-3");
    world.run_until(world.now_us + STALL_NOTICE_US);
    world.unlink(4, LinkEnd::Silent);
    assert_eq!(world.words(), "");
    world.run_until(world.now_us + PATH_US);
    assert_eq!(world.words(), "give-up-4", "that one ended later");
    assert_eq!(world.machine.role(), Role::Serving);
}

#[test]
fn a_node_that_was_dead_for_all_others_is_looked_after_until_it_knows_them_again() {
    let mut world = World::serving(&[2, 3]);
    let before = world.last_lease();
    world.stall(LEASE_US);
    world.turn();
    assert_eq!((world.words().as_str(), world.machine.role()), ("cut-off close", Role::Rejoining));
    assert!(before.until_us <= world.last_lease().until_us && world.last_lease().until_us <= world.now_us);
    assert!(world.machine.diverts(), "nobody would hear of a claim");
    for peer in [2, 3] {
        world.unlink(peer, LinkEnd::Silent);
    }
    world.is_synchronised = false;
    world.run_until(world.now_us + 2 * SECOND);
    assert_eq!(world.words(), "", "and nobody counts as down");
    world.link(2);
    world.link(3);
    world.run_until(world.now_us + SECOND);
    assert_eq!(world.words(), "", "their claims are on their way");
    world.is_synchronised = true;
    world.run_until(world.now_us + SECOND);
    assert_eq!((world.words().as_str(), world.machine.role()), ("open", Role::Serving));
    assert!(!world.machine.diverts());
}

#[test]
fn a_node_that_does_not_find_its_peers_again_serves_alone() {
    let mut world = World::serving(&[2]);
    world.stall(20 * SECOND);
    world.unlink(2, LinkEnd::Silent);
    world.is_synchronised = false;
    world.run_until(world.now_us + REJOIN_US);
    assert_eq!(world.words(), "cut-off close give-up-2 open");
}

#[test]
fn all_peers_that_forget_this_host_at_once_say_that_it_was_away() {
    let mut world = World::serving(&[2, 3]);
    world.unlink(2, LinkEnd::Well);
    assert_eq!(world.words(), "", "one may have forgotten one link");
    world.unlink(3, LinkEnd::Well);
    assert_eq!((world.words().as_str(), world.machine.role()), ("away close", Role::Rejoining));
}

#[test]
fn a_stall_while_starting_lengthens_the_wait_for_the_peers() {
    let mut world = World::new(vec![Proxy::new(None, BTreeSet::new())], inherited(&[2], false));
    world.stall(3 * SECOND);
    world.turn();
    world.told.clear();
    world.run_until(JOIN_US + LINK_IDLE_US);
    assert_eq!(world.words(), "", "nobody could come back meanwhile");
    world.run_until(JOIN_US + 3 * SECOND);
    assert!(world.words().contains("open"));
}

#[test]
fn a_daemon_that_ends_leaves_new_transactions_to_its_peers_and_still_finishes_old_ones() {
    let mut world = World::serving(&[2]);
    world.machine.handle_stop(world.now_us);
    world.take();
    assert!(world.machine.diverts() && world.machine.is_stopping());
    assert_eq!(world.words(), "", "its punts stay open");
    world.run_until(LINGER_US - 1);
    assert_eq!(world.words(), "");
    world.run_until(LINGER_US);
    assert_eq!(world.words(), "end");
}

#[test]
fn a_node_without_seeds_waits_for_nobody() {
    let services = vec![(SERVICE.parse().unwrap(), Proxy::new(None, BTreeSet::new()))];
    let settings = Settings {
        node: id(1),
        services,
        has_seeds: false,
        keep_up: 1,
        inherited: inherited(&[], false),
        first_epoch: Epoch::new(5),
        first_ticket: 7,
    };
    let machine = Failover::new(settings, 7);
    assert_eq!((machine.role(), machine.state()), (Role::Serving, (State::Up, 7)));
}

#[test]
fn the_restart_of_one_proxy_changes_the_epoch_of_its_service() {
    let proxies = vec![Proxy::new(Some(3), set(&[7])), Proxy::new(Some(3), set(&[8]))];
    let mut world = World::new(proxies, inherited(&[], false));
    let before = world.machine.epochs().clone();
    world.evidence(&Evidence::Sockets(set(&[9])));
    let after = world.machine.epochs();
    assert_eq!(after.services[1], before.services[1]);
    assert!(!before.live().contains(after.services[0]) && !after.live().contains(before.services[0]));
}

#[test]
fn a_fresh_node_gives_up_epochs_that_its_peers_know_from_before() {
    let mut world = World::new(vec![Proxy::new(None, BTreeSet::new())], inherited(&[], false));
    world.told.clear();
    world.machine.handle_seen(Epochs::from_bits(1 << 5 | 1 << 6), world.now_us);
    world.take();
    assert_eq!(
        (world.words().as_str(), world.machine.epochs().services.as_slice()),
        ("epoch", [Epoch::new(7)].as_slice())
    );
    world.machine.handle_seen(Epochs::from_bits(1 << 5 | 1 << 6), world.now_us);
    world.take();
    assert_eq!(world.words(), "");
    // A peer that says so of every epoch, again and again, ends no claim of a node that has long been there.
    world.machine.handle_seen(Epochs::from_bits(u16::MAX), world.now_us + FRESH_US);
    world.take();
    assert_eq!((world.words().as_str(), world.machine.epochs().services.as_slice()), ("", [Epoch::new(7)].as_slice()));
}

#[test]
fn a_peer_of_another_version_is_noted_once_for_each_change_and_its_phase_stays() {
    let address = "10.9.3.2:7470".parse().unwrap();
    let mut world = World::serving(&[2, 3]);
    let attempt = |world: &mut World, reason: &str| {
        world.machine.handle_other_version(id(2), address, reason.to_owned(), world.now_us);
        world.take();
        let told = std::mem::take(&mut world.told);
        told.into_iter()
            .map(|output| matches!(output, Output::Note(Note::OtherVersion(said)) if said == reason))
            .collect()
    };
    let reason = |world: &World| world.machine.peer(id(2)).unwrap().reason.clone();
    let none: Vec<bool> = Vec::new();
    assert_eq!(attempt(&mut world, "4 and 3"), none, "its link stands");
    world.machine.handle_link_down(id(2), LinkEnd::Leaving, "it ends".to_owned(), world.now_us);
    world.take();
    world.told.clear();
    let phase = world.machine.peer(id(2)).unwrap().phase;
    assert_eq!(attempt(&mut world, "4 and 3"), [true]);
    assert_eq!((attempt(&mut world, "4 and 3"), reason(&world)), (none.clone(), Some("4 and 3".to_owned())));
    assert_eq!(attempt(&mut world, "5 and 3"), [true]);
    assert_eq!(world.machine.peer(id(2)).unwrap().phase, phase, "what it says of packets was said by its link");
    world.link(2);
    assert_eq!(reason(&world), None);
    // One of which nothing else is known counts for nobody, and is shown.
    world.machine.handle_other_version(id(9), address, "2 and 3".to_owned(), world.now_us);
    let peer = world.machine.peer(id(9)).unwrap();
    assert_eq!((peer.phase, peer.link, peer.reason.as_deref()), (Phase::Unknown, Some(address), Some("2 and 3")));
}
