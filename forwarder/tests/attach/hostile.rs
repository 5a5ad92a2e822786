//! Others on the same host: pin folders that are not ours, programs that are taken off.

use std::{
    ffi::CString,
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, chown, symlink},
    },
    path::Path,
    time::Instant,
};

use aya::programs::{TcAttachType, tc};
use forwarder::{
    config::XdpMode,
    dataplane::{Standing, detach},
};
use serde_json::Value;

use super::{
    Pins, TIMEOUT,
    daemon::Site,
    egress_of_this_kernel, load, try_load, wait_for_egress_programs,
    wire::{self, NEAR},
};

/// The user without rights.
const NOBODY: u32 = 65_534;

fn refused(pins: &Pins) -> String {
    let Err(error) = try_load(pins) else { panic!("a pin folder is taken that must not be") };
    assert!(error.starts_with(&format!("use pin_dir {}: ", pins.0.display())), "{error}");
    error
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_pin_folder_that_somebody_else_has_made_or_may_change_is_refused() {
    wire::in_a_namespace(|_| {
        let pins = Pins::new("others");
        // As an earlier daemon has left it.
        let mut dataplane = load(&pins);
        dataplane.keep();
        drop(dataplane);
        assert_eq!(fs::metadata(&pins.0).unwrap().permissions().mode() & 0o777, 0o700);
        let map = fs::read_dir(&pins.0).unwrap().flatten().find(|entry| entry.path().join("CLAIMS").exists());
        let folder = map.unwrap().path();
        for path in [pins.0.clone(), folder.clone(), folder.join("CLAIMS")] {
            chown(&path, Some(NOBODY), None).unwrap();
            assert!(refused(&pins).contains(&format!("{} belongs to user {NOBODY}", path.display())));
            chown(&path, Some(0), None).unwrap();
            let before = fs::metadata(&path).unwrap().permissions().mode();
            for bits in [0o020, 0o002] {
                mode(&path, before | bits);
                assert!(refused(&pins).contains(&format!("others may write to {} (mode ", path.display())));
            }
            mode(&path, before);
        }
        drop(load(&pins));
        // Another folder may be put into the place of one that lies in theirs.
        let inner = Pins(pins.0.join("inner/pins"));
        drop(load(&inner));
        mode(&pins.0, 0o777);
        assert!(refused(&inner).contains(&format!("for {} is user 0's with mode 777", pins.0.display())));
        mode(&pins.0, 0o1777);
        drop(load(&inner));
        // A link is followed once, and not again by its name.
        let linked = Pins(pins.0.with_file_name(format!("forwarder-link-{}", std::process::id())));
        symlink(&inner.0, &linked.0).unwrap();
        drop(try_load(&linked).unwrap());
        mode(&inner.0, 0o777);
        assert!(refused(&linked).contains("others may write to "));
        fs::remove_file(&linked.0).unwrap();
        drop(inner);
        fs::remove_dir(pins.0.join("inner")).unwrap();
    });
}

#[test]
fn a_bpf_file_system_that_is_mounted_for_the_pins_is_for_root_alone() {
    wire::in_a_namespace(|_| {
        // SAFETY: it takes no pointers and changes this thread alone.
        let status = unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) };
        assert_eq!(status, 0, "make a mount namespace: {}", io::Error::last_os_error());
        let (none, root, bpf) = (c"none".as_ptr(), c"/".as_ptr(), c"/sys/fs/bpf".as_ptr());
        // SAFETY: all strings end with NUL; no data is passed.
        let status =
            unsafe { libc::mount(none, root, std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()) };
        assert_eq!(status, 0, "keep the mounts to this namespace: {}", io::Error::last_os_error());
        // SAFETY: the string ends with NUL.
        while unsafe { libc::umount2(bpf, libc::MNT_DETACH) } == 0 {}
        let mode = || fs::metadata("/sys/fs/bpf").unwrap().permissions().mode() & 0o777;
        let pins = Pins::new("mounted");
        assert!(fs::create_dir(&pins.0).is_err(), "there is no BPF file system any more");
        drop(load(&pins));
        assert_eq!(mode(), 0o700);
    });
}

#[test]
fn two_daemons_do_not_run_with_one_pin_folder() {
    wire::in_a_namespace(|_| {
        let pins = Pins::new("two");
        let mut first = load(&pins);
        assert!(refused(&pins).contains("another forwarder runs with it: it has only just started; hint: "));
        first.keep();
        let error = refused(&pins);
        let process = format!(", process {}; hint: ", std::process::id());
        assert!(error.contains("another forwarder runs with it: network namespace net:[") && error.contains(&process));
        drop(first);
        // A process that another test starts at this moment has a copy of the lock until it runs its program.
        let end = Instant::now() + TIMEOUT;
        while let Err(error) = try_load(&pins) {
            assert!(Instant::now() < end, "{error}");
        }
    });
}

#[test]
fn programs_that_serve_another_network_namespace_are_not_taken_over() {
    let pins = Pins::new("elsewhere");
    wire::in_a_namespace(|near| {
        let mut first = load(&pins);
        first.attach(NEAR, XdpMode::Auto).unwrap();
        first.keep();
        drop(first);
        let here = fs::read_link("/proc/thread-self/ns/net").unwrap();
        wire::in_a_namespace(|_| {
            let error = refused(&pins);
            let sentence = format!(
                "its programs serve interface {NEAR} of network namespace {}, process {}, and this is network \
                 namespace net:[",
                here.display(),
                std::process::id()
            );
            assert!(error.contains(&sentence), "{error}");
            assert!(error.ends_with(&format!("`forwarder detach --pin-dir {}`", pins.0.display())), "{error}");
        });
        wait_for_egress_programs(near, 1);
        // In the first one they are taken over as ever.
        let mut again = load(&pins);
        again.attach(NEAR, XdpMode::Auto).unwrap();
        again.keep();
    });
    // That one is gone by now, and its interface with it.
    wire::in_a_namespace(|_| {
        let end = Instant::now() + TIMEOUT;
        while let Err(error) = try_load(&pins) {
            assert!(Instant::now() < end, "{error}");
        }
    });
}

#[test]
fn what_is_taken_off_behind_a_daemons_back_is_known() {
    wire::in_a_namespace(|wire| {
        let pins = Pins::new("taken");
        let mut dataplane = load(&pins);
        let how = dataplane.attach(NEAR, XdpMode::Auto).unwrap();
        let index = wire::index(NEAR);
        let mut standing = || dataplane.standing(NEAR, index, &how).unwrap();
        assert_eq!(standing(), Standing::Attached);
        take_off_egress(&pins);
        wait_for_egress_programs(wire, 0);
        assert_eq!(standing(), Standing::TakenOff("egress program"));
        take_off(&pins.0.join("links").join(format!("xdp-{}:{NEAR}", how.xdp)));
        assert_eq!(standing(), Standing::TakenOff("XDP program"));
        assert_eq!(dataplane.attach(NEAR, XdpMode::Auto).unwrap(), how);
        assert_eq!(dataplane.standing(NEAR, index, &how).unwrap(), Standing::Attached);
        assert_eq!(dataplane.standing(NEAR, index + 1, &how).unwrap(), Standing::TakenOff("XDP program"));
        dataplane.keep();
        assert_eq!(detach(&pins.0).unwrap().programs, 2);
        assert_eq!(dataplane.standing(NEAR, index, &how).unwrap(), Standing::Detached);
    });
}

#[test]
fn a_daemon_attaches_again_what_others_take_off_and_not_what_an_operator_detaches() {
    wire::in_a_namespace(|wire| {
        let site = Site::new(Pins::new("behind"));
        let (daemon, status) = site.start();
        let whole = interface(&status);
        let pin = site.pins().0.join("links").join(format!("xdp-native:{NEAR}"));
        let pins = site.pins();
        let take: [(&str, &dyn Fn()); 2] =
            [("XDP program", &|| take_off(&pin)), ("egress program", &|| take_off_egress(pins))];
        for (what, take) in take {
            take();
            let sentence = format!("interface {NEAR}: somebody has taken the {what} off; it is attached again");
            site.until(&sentence, || site.log().contains(&sentence));
            site.until("it is attached again", || interface(&site.status()) == whole);
            wait_for_egress_programs(wire, 1);
        }
        site.detach();
        let sentence = "`forwarder detach` has taken the programs off; hint: restart this daemon to attach them again";
        site.until("it is known", || site.log().contains(sentence));
        let status = site.status();
        assert_eq!(interface(&status), ["none", "none"].map(Value::from), "{status:#}");
        let warning = status.pointer("/warnings").unwrap().as_array().unwrap();
        assert!(warning.contains(&format!("interface {NEAR}: {sentence}").into()), "{status:#}");
        // Two more looks at least: a daemon that attaches again would have done so.
        let uptime = |status: &Value| status.pointer("/uptime_s").unwrap().as_u64().unwrap();
        let seen = uptime(&status);
        site.until("three seconds are over", || uptime(&site.status()) > seen + 3);
        assert_eq!(wire.egress_programs(), 0);
        assert!(daemon.stop().success());
        let (_daemon, status) = site.start();
        assert_eq!(interface(&status), whole);
    });
}

fn interface(status: &Value) -> [Value; 2] {
    ["xdp", "egress"].map(|side| status.pointer(&format!("/interfaces/0/{side}")).unwrap().clone())
}

/// As `tc filter del` does, or `bpftool link detach` where the program is held by a link.
fn take_off_egress(pins: &Pins) {
    if egress_of_this_kernel() == "clsact" {
        tc::qdisc_detach_program(NEAR, TcAttachType::Egress, "forwarder_egress").unwrap();
    } else {
        take_off(&pins.0.join("links").join(format!("egress:{NEAR}")));
    }
}

/// Detaches a pinned link, as `bpftool link detach` does.
fn take_off(pin: &Path) {
    let name = CString::new(pin.as_os_str().as_bytes()).unwrap();
    let open = [name.as_ptr() as u64, 0];
    // SAFETY: BPF_OBJ_GET (linux/bpf.h) reads a path and two numbers of 32 bits; the name lives through the call.
    let link = unsafe { libc::syscall(libc::SYS_bpf, 7, open.as_ptr(), size_of_val(&open)) };
    assert!(link >= 0, "open {}: {}", pin.display(), io::Error::last_os_error());
    let link = link as u32;
    // SAFETY: BPF_LINK_DETACH reads a descriptor of 32 bits; close takes no pointers.
    let status = unsafe {
        let status = libc::syscall(libc::SYS_bpf, 34, &raw const link, size_of_val(&link));
        libc::close(link.cast_signed());
        status
    };
    assert_eq!(status, 0, "detach {}: {}", pin.display(), io::Error::last_os_error());
}
