//! SipHash-1-3 over whole 64-bit words, and the two keys made with it.
//!
//! `L` hashes pad8(Call-ID), then the CSeq number and the length of the Call-ID as two 32-bit numbers; `X` goes on
//! with pad8(branch) and the branch's length. The lengths make it injective; any SipHash library gives the same.

/// 2^64 over the golden ratio: the upper bits of a product with it depend on all bits of the other factor (Knuth, The
/// Art of Computer Programming 3, section 6.4).
pub const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// The prime next to 2^32 over the golden ratio, for products of 32 bits.
pub const GOLDEN_32: u32 = 0x9e37_79b1;

/// A hash of a key for a table of the daemon's. Keys are hashes already; this only makes it unforeseeable, by a `salt`
/// of the table's own, which of them fall together.
#[must_use]
pub const fn salted(key: u64, salt: u64) -> u64 {
    let wide = (key ^ salt) as u128 * GOLDEN as u128;
    ((wide >> 64) as u64 ^ wide as u64).rotate_left(32)
}

/// The state of a running hash.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SipHash {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl SipHash {
    /// Starts with a 128-bit key.
    #[inline(always)] // the state must stay in registers
    #[must_use]
    pub const fn new(key: [u64; 2]) -> Self {
        Self {
            v0: key[0] ^ 0x736f_6d65_7073_6575,
            v1: key[1] ^ 0x646f_7261_6e64_6f6d,
            v2: key[0] ^ 0x6c79_6765_6e65_7261,
            v3: key[1] ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)] // as above
    const fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }

    /// Hashes eight bytes, little endian.
    #[inline(always)] // as above
    pub const fn put(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

    /// What the state has come to so far, in one number: no hash, but enough to spread by.
    #[inline(always)] // three instructions
    #[must_use]
    pub const fn mixed(&self) -> u64 {
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }

    /// The hash, after `bytes` bytes in all; the state is not consumed.
    #[inline(always)] // as above
    #[must_use]
    pub const fn finish(&self, bytes: usize) -> u64 {
        let mut s = *self;
        s.put((bytes as u64) << 56);
        s.v2 ^= 0xff;
        s.round();
        s.round();
        s.round();
        s.v0 ^ s.v1 ^ s.v2 ^ s.v3
    }
}

/// Bytes of `length` rounded up to whole words.
#[inline(always)] // one instruction
#[must_use]
pub const fn padded(length: usize) -> usize {
    (length + 7) & !7
}

fn put_text(hash: &mut SipHash, text: &[u8]) {
    for part in text.chunks(8) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(part) {
            *to = *from;
        }
        hash.put(u64::from_le_bytes(word));
    }
}

/// The keys `(L, X)` of a message; `cseq` is 0 where a service has affinity `call`.
#[must_use]
pub fn keys(key: [u64; 2], call_id: &[u8], cseq: u32, branch: &[u8]) -> (u64, u64) {
    let mut hash = SipHash::new(key);
    put_text(&mut hash, call_id);
    hash.put(u64::from(cseq) | ((call_id.len() as u64) << 32));
    let before = padded(call_id.len()) + 8;
    let request = hash.finish(before);
    put_text(&mut hash, branch);
    hash.put(branch.len() as u64);
    (request, hash.finish(before + padded(branch.len()) + 8))
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher as _;

    use proptest::{collection::vec, prelude::*};
    use siphasher::sip::SipHasher13;

    use super::*;

    proptest! {
        #[test]
        fn any_siphash_library_gives_the_same_keys(
            key: [u64; 2], id in vec(any::<u8>(), 0..80), cseq: u32, branch in vec(any::<u8>(), 0..80),
        ) {
            let mut oracle = SipHasher13::new_with_keys(key[0], key[1]);
            oracle.write(&id);
            oracle.write(&[0; 8][..padded(id.len()) - id.len()]);
            oracle.write(&cseq.to_le_bytes());
            oracle.write(&(id.len() as u32).to_le_bytes());
            let request = oracle.finish();
            oracle.write(&branch);
            oracle.write(&[0; 8][..padded(branch.len()) - branch.len()]);
            oracle.write(&(branch.len() as u64).to_le_bytes());
            prop_assert_eq!(keys(key, &id, cseq, &branch), (request, oracle.finish()));
        }
    }
}
