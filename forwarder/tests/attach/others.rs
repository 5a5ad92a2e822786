//! Egress programs of others on the same interface, which let every packet go without showing it to those behind.

use std::{ffi::CString, fs, io, os::unix::ffi::OsStrExt as _, path::PathBuf};

use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType,
    tc::{self, NlOptions, TcAttachOptions},
};
use forwarder::{config::XdpMode, dataplane::detach};

use super::{
    Pins, check_both_ways,
    daemon::Site,
    egress_of_this_kernel, load,
    wire::{self, NEAR},
};

/// A program of two instructions that lets each packet go: TC_ACT_OK.
struct Other {
    program: SchedClassifier,
    pin: PathBuf,
}

impl Other {
    fn new(name: &str) -> Self {
        // r0 = 0; exit.
        let instructions: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
        let licence = c"MIT";
        // The head of the members of BPF_PROG_LOAD (linux/bpf.h): the type SCHED_CLS and two instructions.
        let load = [3 | 2_u64 << 32, instructions.as_ptr() as u64, licence.as_ptr() as u64, 0, 0, 0];
        // SAFETY: the attributes are of that form, and what they point to lives through the call.
        let program = unsafe { libc::syscall(libc::SYS_bpf, 5, load.as_ptr(), size_of_val(&load)) };
        assert!(program >= 0, "load a program: {} (run as root)", io::Error::last_os_error());
        let pin = PathBuf::from(format!("/sys/fs/bpf/forwarder-test-{}-{name}", std::process::id()));
        let path = CString::new(pin.as_os_str().as_bytes()).unwrap();
        let object = [path.as_ptr() as u64, program as u64];
        // SAFETY: BPF_OBJ_PIN reads a path and a descriptor; the name lives through the call.
        let pinned = unsafe { libc::syscall(libc::SYS_bpf, 6, object.as_ptr(), size_of_val(&object)) };
        assert_eq!(pinned, 0, "pin a program: {}", io::Error::last_os_error());
        Self { program: SchedClassifier::from_pin(&pin).unwrap(), pin }
    }

    fn attach(&mut self, is_first: bool) {
        if egress_of_this_kernel() == "tcx" {
            let order = if is_first { LinkOrder::first() } else { LinkOrder::last() };
            self.program.attach_with_options(NEAR, TcAttachType::Egress, TcAttachOptions::TcxOrder(order)).unwrap();
            return;
        }
        let _ = tc::qdisc_add_clsact(NEAR);
        let options = NlOptions { priority: if is_first { 1 } else { 0 }, ..NlOptions::default() };
        self.program.attach_with_options(NEAR, TcAttachType::Egress, TcAttachOptions::Netlink(options)).unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.pin);
    }
}

#[test]
fn egress_claims_although_another_program_was_there_first_and_lets_all_go() {
    wire::in_a_namespace(|wire| {
        let mut other = Other::new("earlier");
        other.attach(true);
        let pins = Pins::new("behind-another");
        let mut dataplane = load(&pins);
        let how = dataplane.attach(NEAR, XdpMode::Auto).unwrap();
        check_both_ways(&dataplane, wire, "behind");
        assert_eq!(dataplane.in_front(NEAR, wire::index(NEAR), &how).unwrap(), Vec::<String>::new());
        dataplane.keep();
        detach(&pins.0).unwrap();
    });
}

#[test]
fn a_daemon_that_starts_comes_before_what_has_pushed_itself_in_front_of_the_earlier_one() {
    wire::in_a_namespace(|wire| {
        let pins = Pins::new("pushed");
        let mut first = load(&pins);
        let how = first.attach(NEAR, XdpMode::Auto).unwrap();
        let mut other = Other::new("later");
        other.attach(true);
        let others = first.in_front(NEAR, wire::index(NEAR), &how).unwrap();
        assert_eq!(others.len(), 1, "{others:?}");
        assert!(others[0].contains("program "), "{others:?}");
        first.keep();
        drop(first);
        let mut second = load(&pins);
        second.attach(NEAR, XdpMode::Auto).unwrap();
        check_both_ways(&second, wire, "second");
        assert!(second.in_front(NEAR, wire::index(NEAR), &how).unwrap().is_empty());
        second.keep();
        // The earlier daemon's program is gone.
        super::wait_for_egress_programs(wire, 2);
        detach(&pins.0).unwrap();
    });
}

#[test]
fn what_pushes_itself_in_front_of_a_running_daemon_is_a_warning_until_it_is_gone() {
    wire::in_a_namespace(|_| {
        let site = Site::new(Pins::new("in-front"));
        let (daemon, _) = site.start();
        let warns = || {
            let status = site.status();
            let warnings = status.pointer("/warnings").unwrap().as_array().unwrap();
            warnings.iter().any(|warning| warning.as_str().unwrap().contains("comes before the forwarder's program"))
        };
        assert!(!warns());
        let mut harmless = Other::new("harmless");
        harmless.attach(false);
        let mut intruder = Other::new("intruder");
        intruder.attach(true);
        site.until("the intruder is a warning", warns);
        assert!(site.log().contains("comes before the forwarder's program"));
        if egress_of_this_kernel() == "tcx" {
            drop(intruder);
            site.until("the warning goes with it", || !warns());
        }
        assert!(daemon.stop().success());
        site.detach();
    });
}
