//! For any bytes: what the fast reader of SIP answers, the full one answers too.

use crate::agree;

/// Ethernet, IPv4 and UDP headers, which lie before the payload in a frame.
const BEFORE: usize = 42;

/// Reads `data` as a message, and as a frame that goes on behind one.
///
/// # Panics
/// The two readers differ.
pub fn readers(data: &[u8]) {
    agree::agree(data);
    // The last two bytes say where in the rest a payload ends.
    if let Some((rest, [low, high])) = data.split_last_chunk() {
        let end = usize::from(u16::from_le_bytes([*low, *high])) % (rest.len() + 1);
        let frame = [&[b'\n'; BEFORE], rest].concat();
        agree::agree_in(&frame, BEFORE..BEFORE + end, *low & 1 != 0);
    }
}
