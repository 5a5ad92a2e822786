//! What is kept in `fuzz/corpus` for the fuzz targets that need the daemon's crate still passes: inputs that once found
//! a fault, and the fewest that cover what a fuzzer reached.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../../fuzz/src/captures.rs"]
mod captures;
#[path = "../../fuzz/src/configuration.rs"]
mod configuration;
#[path = "../../fuzz/src/control.rs"]
mod control;
#[path = "../../fuzz/src/packets.rs"]
mod packets;
#[path = "../../fuzz/src/tunnel.rs"]
mod tunnel;

use std::{fs, panic::catch_unwind, path::Path};

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
fn captures_that_are_kept_are_explained_and_drive_no_terminal() {
    replay("captures", captures::captures);
}

#[test]
fn configurations_that_are_kept_are_within_bounds_or_refused_with_a_way_out() {
    replay("configuration", configuration::configuration);
}

#[test]
fn lines_that_are_kept_get_one_answer_at_the_control_socket() {
    replay("control", control::control);
}

#[test]
fn packets_that_are_kept_meet_in_the_programs_what_the_host_says() {
    replay("packets", packets::packets);
}

#[test]
fn datagrams_that_are_kept_come_out_of_the_tunnel_where_all_of_them_is_right() {
    replay("tunnel", tunnel::tunnel);
}
