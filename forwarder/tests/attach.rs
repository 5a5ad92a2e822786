//! The programs on a real interface: a veth pair in a namespace of the test's own. Needs root.
//!
//! Runs on every kernel of `cargo xtask kernels` too, since the way to attach egress depends on the kernel.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "attach/daemon.rs"]
mod daemon;
#[path = "attach/hostile.rs"]
mod hostile;
#[path = "attach/injection.rs"]
mod injection;
#[path = "attach/others.rs"]
mod others;
#[path = "attach/wire.rs"]
mod wire;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use daemon::Site;
use forwarder::{
    config::XdpMode,
    dataplane::{Attached, Dataplane, Settings, detach},
    identity::Secrets,
};
use forwarder_common::abi::{self, Address, Config, Lifetimes, ServiceKey};
use test_support::programs::frames::{Frame, HASH_KEY, Sip};
use wire::{NEAR, Wire};

const ME: u16 = 1;
const TIMEOUT: Duration = Duration::from_secs(20);

/// What every kernel must attach with.
fn egress_of_this_kernel() -> &'static str {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap());
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    if version < (6, 6) { "clsact" } else { "tcx" }
}

/// A folder of pins, detached when the test ends, however it ends.
struct Pins(PathBuf);

impl Pins {
    fn new(name: &str) -> Self {
        Self(Path::new("/sys/fs/bpf").join(format!("forwarder-test-{}-{name}", std::process::id())))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = detach(&self.0);
    }
}

fn load(pins: &Pins) -> Dataplane {
    try_load(pins).unwrap_or_else(|error| panic!("{error} (run as root)"))
}

fn try_load(pins: &Pins) -> Result<Dataplane, String> {
    let config = Config {
        underlay: Address::v4([10, 9, 0, 1]),
        node: ME,
        epochs: 1 << 5,
        lifetimes: Lifetimes { proceeding: 57, failed: 18, ended: 11, call: 1700 },
        ..Config::default()
    };
    let vip = ServiceKey { vip: Address::v4([192, 0, 2, 10]), port: 5060_u16.to_be(), pad: 0 };
    let service = abi::Service { flags: abi::SERVICE_SET, call_ticks: 1700, epoch: 5, index: 0 };
    let secrets = Secrets { hash_key: HASH_KEY, tag_key: [[11, 22], [0; 2]], tag_epoch: 0 };
    let settings = Settings { config, secrets, services: vec![(vip, service)], sources: Vec::new(), claims: 1024 };
    Dataplane::load(&settings, Some(&pins.0)).map_err(|error| format!("{error:#}"))
}

/// The kernel takes its time over a link that is only let go of.
fn wait_for_egress_programs(wire: &Wire, expected: usize) {
    let end = Instant::now() + TIMEOUT;
    while wire.egress_programs() != expected {
        assert!(Instant::now() < end, "{} programs at the way out instead of {expected}", wire.egress_programs());
        std::thread::yield_now();
    }
}

/// Sends one request each way and waits until both programs have counted it once more, and only once.
fn check_both_ways(dataplane: &Dataplane, wire: &Wire, call: &str) {
    let count = |name: &str| dataplane.outcomes().unwrap().get(name).copied().unwrap();
    let before = (count("local_alone"), count("egress_claimed"));
    let (inbound, outbound) = (Sip::invite(&format!("{call}-in")), Sip::invite(&format!("{call}-out")));
    wire.arrive(Frame::to_vip(false, &inbound.bytes()).bytes());
    wire.leave(Frame::from_vip(false, &outbound.bytes()).bytes());
    let expected = (before.0 + 1, before.1 + 1);
    let end = Instant::now() + TIMEOUT;
    while (count("local_alone"), count("egress_claimed")) != expected {
        let now = (count("local_alone"), count("egress_claimed"));
        assert!(Instant::now() < end, "{call}: ingress and egress counted {now:?} instead of {expected:?}");
        std::thread::yield_now();
    }
    assert_eq!(dataplane.claim(outbound.request_key()).unwrap().owner(), ME);
    assert!(dataplane.claim(inbound.request_key()).is_none());
}

#[test]
fn what_arrives_and_what_leaves_meets_the_programs_in_both_modes() {
    wire::in_a_namespace(|wire| {
        for (mode, name) in [(XdpMode::Native, "native"), (XdpMode::Generic, "generic"), (XdpMode::Auto, "native")] {
            let pins = Pins::new("modes");
            let mut dataplane = load(&pins);
            let attached = dataplane.attach(NEAR, mode).unwrap();
            assert_eq!(attached, Attached { xdp: name, egress: egress_of_this_kernel() });
            check_both_ways(&dataplane, wire, name);
            dataplane.keep();
            assert_eq!(detach(&pins.0).unwrap().programs, 2);
            wait_for_egress_programs(wire, 0);
        }
    });
}

#[test]
fn a_daemon_that_follows_takes_over_and_leaves_one_program_a_side() {
    wire::in_a_namespace(|wire| {
        let pins = Pins::new("follow");
        let mut first = load(&pins);
        first.attach(NEAR, XdpMode::Auto).unwrap();
        first.keep();
        check_both_ways(&first, wire, "first");
        drop(first);
        wait_for_egress_programs(wire, 1);
        let mut second = load(&pins);
        assert_eq!(second.claim(Sip::invite("first-out").request_key()).unwrap().owner(), ME);
        check_both_ways(&second, wire, "between");
        second.attach(NEAR, XdpMode::Auto).unwrap();
        second.keep();
        wait_for_egress_programs(wire, 1);
        check_both_ways(&second, wire, "second");
        assert_eq!(detach(&pins.0).unwrap().programs, 2);
        wait_for_egress_programs(wire, 0);
        assert!(!pins.0.exists());
    });
}

#[test]
fn a_start_that_fails_leaves_nothing_attached() {
    wire::in_a_namespace(|wire| {
        let pins = Pins::new("fail");
        let mut dataplane = load(&pins);
        dataplane.attach(NEAR, XdpMode::Auto).unwrap();
        wait_for_egress_programs(wire, 1);
        let error = dataplane.attach("absent0", XdpMode::Auto).unwrap_err();
        assert!(format!("{error:#}").starts_with("attach TC egress to absent0: "), "{error:#}");
        drop(dataplane);
        wait_for_egress_programs(wire, 0);
        assert!(!pins.0.exists());
    });
}

#[test]
fn the_programs_go_on_without_their_daemon_until_an_operator_detaches_them() {
    wire::in_a_namespace(|wire| {
        let site = Site::new(Pins::new("daemon"));
        let (daemon, status) = site.start();
        assert_eq!(status.pointer("/interfaces/0/xdp").unwrap(), "native", "{status:#}");
        assert_eq!(status.pointer("/interfaces/0/egress").unwrap(), egress_of_this_kernel());
        for call in ["one", "two"] {
            wire.leave(Frame::from_vip(false, &Sip::invite(call).bytes()).bytes());
            let owner = site.ask(&["owner", call, "1", "--json"]).unwrap();
            assert_eq!(owner.get("owner").unwrap(), ME, "{owner:#}");
        }
        assert!(daemon.stop().success());
        wait_for_egress_programs(wire, 1);
        let (daemon, status) = site.start();
        assert_eq!(status.pointer("/outcomes/egress_claimed").unwrap(), 2, "{status:#}");
        wire.leave(Frame::from_vip(false, &Sip::invite("three").bytes()).bytes());
        let status = site.ask(&["status", "--json"]).unwrap();
        assert_eq!(status.pointer("/outcomes/egress_claimed").unwrap(), 3, "{status:#}");
        assert!(daemon.stop().success());
        wait_for_egress_programs(wire, 1);
        site.detach();
        wait_for_egress_programs(wire, 0);
    });
}
