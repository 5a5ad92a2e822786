//! The Internet checksum (RFC 1071), on sums of 16-bit words in the byte order of memory.

/// Folds a sum of 16-bit words and complements it.
#[inline(always)] // a few instructions
#[must_use]
pub const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// The part of a sum that eight bytes, read little endian, contribute.
#[inline(always)] // a few instructions
#[must_use]
pub const fn word(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_holds() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(word(u64::from_le_bytes(bytes))).to_le_bytes(), (!0xddf2_u16).to_be_bytes());
    }
}
