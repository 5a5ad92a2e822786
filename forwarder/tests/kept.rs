//! What is kept in `fuzz/corpus` still passes: inputs that once found a fault, and the fewest that cover what a fuzzer
//! reached. Packets need root.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{fs, panic::catch_unwind, path::Path};

use test_support::properties;

/// Plays each input of a target, and names those that fail.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let files: Vec<_> = fs::read_dir(&folder).unwrap().flatten().collect();
    assert!(files.len() > 10, "only {} inputs in {}", files.len(), folder.display());
    let fails = |file: &&fs::DirEntry| {
        let input = fs::read(file.path()).unwrap();
        catch_unwind(|| target(&input)).is_err()
    };
    let failed: Vec<_> = files.iter().filter(fails).map(fs::DirEntry::file_name).collect();
    assert!(failed.is_empty(), "{name} fails with {failed:?}");
}

#[test]
fn the_readers_agree_on_what_is_kept() {
    replay("readers", properties::readers);
}

#[test]
fn packets_that_are_kept_arrive_through_the_tunnel_as_they_were() {
    replay("frames", properties::frames);
}

#[test]
fn the_slow_path_accounts_for_each_packet_of_what_is_kept() {
    replay("slowpath", properties::slowpath);
}

#[test]
fn messages_that_are_kept_are_written_as_they_are_read() {
    replay("wire", properties::wire);
}

#[test]
fn a_node_stays_within_its_bounds_in_what_is_kept() {
    replay("node", properties::node);
}

#[test]
fn fragments_that_are_kept_come_out_as_a_list_of_them_says() {
    replay("reassembly", properties::reassembly);
}

#[test]
fn captures_that_are_kept_are_explained_and_drive_no_terminal() {
    replay("captures", properties::captures);
}

#[test]
fn configurations_that_are_kept_are_within_bounds_or_refused_with_a_way_out() {
    replay("configuration", properties::configuration);
}

#[test]
fn lines_that_are_kept_get_one_answer_at_the_control_socket() {
    replay("control", properties::control);
}

#[test]
fn packets_that_are_kept_meet_in_the_programs_what_the_host_says() {
    replay("packets", properties::packets);
}

#[test]
fn datagrams_that_are_kept_come_out_of_the_tunnel_where_all_of_them_is_right() {
    replay("tunnel", properties::tunnel);
}
