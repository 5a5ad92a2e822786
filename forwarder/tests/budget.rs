//! How much of the verifier's limit of instructions the programs take. Needs root.

use test_support::programs::budget::{RECORDED, complaints};

const FEW: &str = "[\"6.1\"]\ningress = 1000\n[\"6.18\"]\ningress = 2000\negress = 100\n";

#[test]
fn no_program_outgrows_what_was_recorded_for_this_kernel() {
    let verified = forwarder::dataplane::verify().unwrap_or_else(|error| panic!("{error:#} (run as root)"));
    let programs: Vec<_> = verified.iter().map(|program| (program.name.as_str(), program.instructions)).collect();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let complaints = complaints(RECORDED, &release, &programs).unwrap();
    assert!(complaints.is_empty(), "{complaints:#?}\nhint: see `cargo xtask verify`");
    assert!(programs.len() >= 4, "{programs:?}");
}

#[test]
fn a_program_may_grow_by_a_quarter() {
    let of = |release: &str, ingress: u32| complaints(FEW, release, &[("ingress", ingress)]).unwrap();
    assert!(of("6.1.0-50-amd64", 1250).is_empty());
    assert_eq!(
        of("6.1.0-50-amd64", 1251),
        ["ingress outgrows its budget on Linux 6.1: 1251 > 1250 (1000 were recorded)"]
    );
    assert!(of("6.18.44", 2500).is_empty());
    assert_eq!(of("6.18.44", 2501).len(), 1);
}

#[test]
fn a_kernel_that_nothing_was_recorded_for_has_half_of_the_verifiers_limit() {
    for release in ["6.12.118+deb13-amd64", "7.0", "6.1.0"] {
        let found = complaints(FEW, release, &[("ingress", 500_001)]).unwrap();
        assert_eq!(found, ["ingress passes half of the verifier's limit: 500001 > 500000"]);
    }
    assert!(complaints(FEW, "6.12.118+deb13-amd64", &[("ingress", 500_000), ("new", 1)]).unwrap().is_empty());
}

#[test]
fn a_program_that_was_never_recorded_is_named() {
    let found = complaints(FEW, "6.1.0", &[("ingress", 1), ("egress", 1)]).unwrap();
    assert_eq!(found, ["egress is not recorded for Linux 6.1"]);
}

#[test]
fn a_broken_record_is_an_error_and_what_is_recorded_is_none() {
    assert!(complaints("[\"6.1\"]\ningress = many\n", "6.1", &[]).is_err());
    assert!(complaints(RECORDED, "6.1", &[]).unwrap().is_empty());
}
