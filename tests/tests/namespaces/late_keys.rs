//! Messages that the proxy sends as fragments, with the headers that make their keys behind the first.

use anyhow::Result;
use tests::lab::Family;

use crate::egress::fragments_are_claimed;

#[test]
fn keys_in_the_second_fragment_are_claimed_v4() -> Result<()> {
    fragments_are_claimed(Family::V4, late)
}

#[test]
fn keys_in_the_second_fragment_are_claimed_v6() -> Result<()> {
    fragments_are_claimed(Family::V6, late)
}

/// A message made so many bytes long by headers before those that make its keys.
fn late(message: &[u8], size: usize) -> Vec<u8> {
    let text = String::from_utf8_lossy(message);
    let missing = size.saturating_sub(message.len());
    let headers: String = (0..missing / 100).map(|_| format!("X-Padding: {}\r\n", "p".repeat(87))).collect();
    text.replacen("Via:", &format!("{headers}Via:"), 1).into_bytes()
}
