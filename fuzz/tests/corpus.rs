//! What is kept in `corpus` still passes: inputs that once found a fault, and the fewest that cover what a fuzzer
//! reached.

#![expect(clippy::expect_used, reason = "all of it is a test")]

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

/// Plays each input of a target, and names those that fail.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let files: Vec<_> = fs::read_dir(&folder).expect("the target's folder").flatten().collect();
    assert!(files.len() > 10, "only {} inputs in {}", files.len(), folder.display());
    let fails = |file: &&fs::DirEntry| {
        let input = fs::read(file.path()).expect("an input");
        catch_unwind(|| target(&input)).is_err()
    };
    let failed: Vec<_> = files.iter().filter(fails).map(fs::DirEntry::file_name).collect();
    assert!(failed.is_empty(), "{name} fails with {failed:?}");
}

#[test]
fn the_readers_agree_on_what_is_kept() {
    replay("readers", forwarder_fuzz::readers);
}

#[test]
fn packets_that_are_kept_arrive_through_the_tunnel_as_they_were() {
    replay("frames", forwarder_fuzz::frames);
}

#[test]
fn the_slow_path_accounts_for_each_packet_of_what_is_kept() {
    replay("slowpath", forwarder_fuzz::slowpath);
}

#[test]
fn messages_that_are_kept_are_written_as_they_are_read() {
    replay("wire", forwarder_fuzz::wire);
}

#[test]
fn a_node_stays_within_its_bounds_in_what_is_kept() {
    replay("node", forwarder_fuzz::node);
}

#[test]
fn fragments_that_are_kept_come_out_as_a_list_of_them_says() {
    replay("reassembly", forwarder_fuzz::reassembly);
}
