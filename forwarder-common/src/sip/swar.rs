//! Eight bytes at a time: which of them are what. In every mask the lowest set bit is exact.

const ONES: u64 = 0x0101_0101_0101_0101;
/// The high bit of every byte.
pub(super) const HIGH: u64 = 0x8080_8080_8080_8080;
/// Eight digits of zero, as they are read.
pub(super) const ZEROS: u64 = text(b"00000000");

/// [`hit`] with whatever else in the lower bits.
#[inline(always)] // as above
pub(super) const fn maybe(word: u64, byte: u8) -> u64 {
    let x = word ^ (ONES * byte as u64);
    x.wrapping_sub(ONES) & !x
}

/// 0x80 in bytes equal to `byte`.
#[inline(always)] // a few instructions in the scan's loop
pub(super) const fn hit(word: u64, byte: u8) -> u64 {
    let x = word ^ (ONES * byte as u64);
    x.wrapping_sub(ONES) & !x & HIGH
}

/// 0x80 in bytes that are a space or a tab; exact in every byte.
#[inline(always)] // as above
pub(super) const fn blank(word: u64) -> u64 {
    zero(word ^ (ONES * b' ' as u64)) | zero(word ^ (ONES * b'\t' as u64))
}

/// 0x80 in bytes that are zero; exact in every byte, at the price of two instructions.
#[inline(always)] // as above
const fn zero(word: u64) -> u64 {
    !(((word & !HIGH) + !HIGH) | word) & HIGH
}

/// 0x80 in bytes below `bound`, which is at most 0x80.
#[inline(always)] // as above
pub(super) const fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(ONES * bound as u64) & !word & HIGH
}

/// Index of the lowest byte marked in `mask`, which must not be 0. eBPF has no instruction for it.
#[inline(always)] // as above
pub(super) const fn index(mask: u64) -> usize {
    (((mask & mask.wrapping_neg()) >> 7).wrapping_mul(0x0001_0203_0405_0607) >> 56) as usize
}

/// 0x80 in bytes that are no decimal digit.
#[inline(always)] // as above
pub(super) const fn not_digit(word: u64) -> u64 {
    let x = word ^ (ONES * 0x30);
    // Exact in every byte: digits are 0..=9 now, and adding 0x76 carries into the high bit above 9.
    (((x & !HIGH) + ONES * 0x76) | x) & HIGH
}

/// The number in eight bytes that are digits less '0', the first byte the most significant.
#[inline(always)] // as above
pub(super) const fn decimal(digits: u64) -> u64 {
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff
}

/// The low `bytes` bytes set, 0..=7.
#[inline(always)] // as above
pub(super) const fn low(bytes: usize) -> u64 {
    (1 << (8 * (bytes & 7))) - 1
}

/// Eight bytes of text as they are read.
pub(super) const fn text(bytes: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn masks_agree_with_a_loop_over_bytes(word: u64, byte: u8, bound in 0..=0x80u8) {
            let first = |want: &dyn Fn(u8) -> bool| word.to_le_bytes().iter().position(|b| want(*b));
            let found = |mask: u64| (mask != 0).then(|| index(mask));
            prop_assert_eq!(found(hit(word, byte)), first(&|b| b == byte));
            prop_assert_eq!(found(below(word, bound)), first(&|b| b < bound));
            prop_assert_eq!(found(!blank(word) & HIGH), first(&|b| b != b' ' && b != b'\t'));
            prop_assert_eq!(found(not_digit(word)), first(&|b| !b.is_ascii_digit()));
        }

        #[test]
        fn decimal_reads_eight_digits(number in 0..100_000_000u64) {
            let mut digits = [0; 8];
            let mut rest = number;
            for digit in digits.iter_mut().rev() {
                *digit = (rest % 10) as u8;
                rest /= 10;
            }
            prop_assert_eq!(decimal(u64::from_le_bytes(digits)), number);
        }
    }
}
