//! Any bytes as a capture file: reading it ends, no reader of SIP differs from another, and what is printed has one
//! harmless line for each datagram.

use std::{
    fs::File,
    io::Write as _,
    os::fd::{AsRawFd as _, FromRawFd as _},
    path::PathBuf,
};

use forwarder::{
    explain::{Options, run},
    foreign::{self, Harmless},
};

/// The shortest record of a packet in either format: its header.
const RECORD: usize = 16;

/// Explains `data` as text and as JSON.
///
/// # Panics
/// The readers differ, or what is printed is more than a line for each record, or drives a terminal.
pub fn captures(data: &[u8]) {
    let (file, path) = in_memory(data);
    for json in [false, true] {
        let mut out = Harmless(Vec::new());
        let options = Options { file: path.clone(), json, kernel: false, hash_key: [1, 2] };
        let read = run(&options, &mut out).map_err(|error| format!("{error:#}"));
        let text = String::from_utf8(out.0).expect("text");
        if let Err(why) = read {
            assert!(!why.contains("answers of the fast path are wrong"), "{why}");
            assert!(!why.is_empty() && foreign::escaped(&foreign::line(&why)) == foreign::line(&why));
        }
        assert!(text.lines().count() <= 2 + data.len() / RECORD, "{} lines", text.lines().count());
        for line in text.lines() {
            assert_eq!(foreign::escaped(line), line);
            assert!(!json || serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line.is_object()));
        }
    }
    drop(file);
}

/// The bytes as a file that has no place on a disk.
fn in_memory(data: &[u8]) -> (File, PathBuf) {
    // SAFETY: the name is a C string, and the result is looked at.
    let descriptor = unsafe { libc::memfd_create(c"capture".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(descriptor >= 0, "no file in memory");
    // SAFETY: the descriptor was just made, and is nobody else's.
    let mut file = unsafe { File::from_raw_fd(descriptor) };
    file.write_all(data).expect("room in memory");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    (file, path.into())
}
