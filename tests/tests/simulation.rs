//! Many nodes in virtual time: what all of them agree on whatever happened, and what reaches the wrong node meanwhile.
//!
//! Small clusters and a bounded set of seeds; `cargo xtask simulate` plays more of both.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

use tests::simulation::{Cause, Report, Scenario, Summary, run};

/// Games of chaos: some 20 s of a program that is not optimised.
const CHAOS_SEEDS: u64 = 12;

/// Small enough for a program that is not optimised.
fn scenario(name: &str, seed: u64) -> Scenario {
    let mut scenario = Scenario::named(name, 10, seed).unwrap();
    // Longer than a question and its answer take between the farthest regions.
    scenario.hold_ms = 300;
    scenario
}

fn play(scenario: &Scenario) -> Report {
    let report = run(scenario).unwrap();
    assert_eq!(report.protocol_errors, Vec::<String>::new(), "{report}");
    report
}

/// Plays a scenario with some seeds; at the end of each all nodes must agree with the reference.
fn agree(name: &str, seeds: std::ops::Range<u64>) -> Vec<Report> {
    let reports: Vec<Report> = seeds.map(|seed| play(&scenario(name, seed))).collect();
    for report in &reports {
        assert!(report.agreement.holds(), "{report}");
        assert!(report.agreement.keys > 50, "too little was compared: {report}");
        assert_eq!((report.unlinked, report.evicted), (0, 0), "{report}");
    }
    reports
}

#[test]
fn a_seed_plays_the_same_game_each_time_and_another_seed_another_one() {
    for name in ["flapping", "chaos"] {
        let traces: Vec<u64> = [7, 7, 8].map(|seed| play(&scenario(name, seed)).trace).into();
        assert_eq!(traces[0], traces[1]);
        assert_ne!(traces[0], traces[2]);
    }
}

#[test]
fn without_faults_no_message_meets_a_wrong_node_although_one_in_five_lands_elsewhere() {
    for seed in 10..13 {
        let mut scenario = scenario("steady", seed);
        scenario.elsewhere_percent = 20;
        // A copy of a request that lands elsewhere waits for nobody: it must not outrun the claim.
        scenario.t1_ms = 1000;
        let report = play(&scenario);
        let fates = report.fates(None);
        assert!(report.agreement.holds(), "{report}");
        assert_eq!((fates.wrong, fates.ownerless, fates.lost), (0, 0, 0), "{report}");
        assert!(fates.forwarded > fates.landed / 10 && fates.held > 0, "{report}");
    }
}

#[test]
fn with_nobody_to_ask_messages_do_meet_wrong_nodes() {
    let mut scenario = scenario("steady", 1);
    scenario.seeds = 1;
    scenario.warm_s = 6;
    let report = run(&Scenario { loss: 0.999, ..scenario }).unwrap();
    assert!(!report.agreement.holds() && report.agreement.missing > 0, "{report}");
    assert!(report.fates(None).wrong > 0, "{report}");
}

#[test]
fn a_region_that_was_cut_off_agrees_with_the_others_again_and_nothing_goes_astray_after() {
    for report in agree("partition", 20..23) {
        assert_eq!(report.fates(Some("before")).wrong, 0, "{report}");
        assert_eq!(report.fates(Some("after")).wrong, 0, "{report}");
        assert!(report.fates(Some("cut")).wrong > 0, "the cut did nothing: {report}");
        assert_eq!(report.agreement.forgotten, 0, "all daemons know their claims: {report}");
    }
}

#[test]
fn what_lands_after_a_crash_is_taken_by_the_node_where_it_lands() {
    for report in agree("crash", 30..33) {
        let (before, first) = (report.fates(Some("before")), report.fates(Some("first 1.5 s")));
        let (down, back) = (report.fates(Some("down")), report.fates(Some("back")));
        assert_eq!((before.wrong, before.lost, before.ownerless), (0, 0, 0), "{report}");
        assert_eq!((down.wrong, down.lost, back.wrong, back.lost), (0, 0, 0, 0), "{report}");
        assert!(first.ownerless + first.lost + down.ownerless > 0, "the crash did nothing: {report}");
    }
}

#[test]
fn hosts_restarted_one_after_another_cost_no_message() {
    for report in agree("rolling", 40..42) {
        let fates = report.fates(None);
        assert_eq!((fates.lost, fates.ownerless), (0, 0), "{report}");
        assert!(report.links[1] > 0, "nobody was restarted: {report}");
        assert_eq!(report.noted.down, 0, "a daemon that restarts in order is waited for: {report}");
    }
}

#[test]
fn nodes_agree_after_cuts_of_all_lengths_killed_daemons_and_restarted_proxies() {
    let reports = agree("flapping", 50..55);
    for report in &reports {
        assert!(report.links[1] > 10, "nothing flapped: {report}");
    }
    // Keys that two nodes claim and of which one's daemon has forgotten it are among what is compared.
    assert!(reports.iter().any(|report| report.agreement.forgotten > 0), "nothing was forgotten");
}

#[test]
fn a_flood_that_silences_all_proxies_leaves_one_route_and_all_come_back() {
    for report in agree("silence", 80..84) {
        let all = report.scenario.nodes;
        assert_eq!(report.routed("before"), Some((all, all)), "{report}");
        assert_eq!(report.routed("silent"), Some((1, 1)), "{report}");
        // What takes the last one away is no silence: the next one comes up for it, and only one.
        for phase in ["drained", "stopped", "crashed"] {
            assert_eq!(report.routed(phase), Some((0, 1)), "{phase}: {report}");
        }
        assert_eq!(report.routed("after"), Some((all, all)), "{report}");
    }
}

#[test]
fn a_host_that_says_whatever_its_peers_must_take_costs_no_message_and_no_link_of_others() {
    for seed in 90..93 {
        let report = play(&scenario("hostile", seed));
        assert!(report.agreement.holds(), "{report}");
        assert_eq!(report.unlinked, 0, "{report}");
        for phase in ["before", "hostile", "after"] {
            let fates = report.fates(Some(phase));
            assert_eq!((fates.wrong, fates.lost), (0, 0), "{phase}: {report}");
        }
        assert!(report.links[1] <= 2 * (report.scenario.nodes as u64 - 1), "links of others ended: {report}");
    }
}

#[test]
fn nodes_that_come_and_go_know_every_claim() {
    agree("joining", 60..63);
}

#[test]
fn clocks_an_hour_apart_lose_no_claim() {
    agree("clocks", 70..73);
}

#[test]
fn daemons_that_are_stopped_for_moments_cost_next_to_nothing_and_for_seconds_only_while_they_are() {
    for report in agree("stalls", 80..83) {
        let wrong = |phase| report.fates(Some(phase)).wrong;
        assert_eq!((wrong("before"), wrong("after")), (0, 0), "{report}");
        assert_eq!((report.fates(None).lost, report.fates(None).ownerless), (0, 0), "{report}");
        // No link ends, so whatever goes wrong is news that waits for the daemon.
        let news = |cause| report.wrong(Some("short"), cause);
        assert_eq!(wrong("short"), news(Cause::OnItsWay) + news(Cause::Untold) + news(Cause::Stalled), "{report}");
        assert!(report.noted.stalls > 5 && report.noted.cut_off >= 2, "nothing was stopped: {report}");
        assert!(report.fates(Some("long")).relayed > 0, "nothing was left to the peers' daemons: {report}");
    }
}

#[test]
fn nodes_agree_after_faults_of_all_sorts_one_on_top_of_the_other() {
    let mut summary = Summary::default();
    for seed in 1..=CHAOS_SEEDS {
        let nodes = 5 + (seed % 8) as usize;
        let report = run(&Scenario::named("chaos", nodes, seed).unwrap()).unwrap();
        assert_eq!(report.fates(Some("after")).wrong, 0, "{report}");
        assert_eq!((report.unlinked, report.evicted), (0, 0), "{report}");
        summary.add(&report);
    }
    assert!(summary.failed().is_empty(), "{summary}");
    // Each fault must have met each part of the machine.
    let noted = summary.noted();
    assert!(noted.stalls > noted.cut_off && noted.cut_off > 0 && noted.down > 0, "{summary}");
    assert!(noted.proxies_ended > 0 && noted.epochs_taken > 0, "{summary}");
    assert!(summary.wrong(Cause::Unknown) * 1000 <= summary.wrong_in_all(), "causes are missing: {summary}");
}
