//! The one way in which parsers look at bytes, so that packet pointers and slices share them.

/// Bytes that can be read at an offset. All reads are little endian.
pub trait Reader {
    /// The eight bytes at `off`; those past the end read as zero. `None` if `off` itself is past the end.
    fn word(&self, off: usize) -> Option<u64>;

    /// The 32 bytes at `off`, if that many are there.
    fn block(&self, off: usize) -> Option<[u64; 4]>;

    /// The byte at `off`.
    #[inline(always)] // the verifier must see the bounds check beside the use
    fn byte(&self, off: usize) -> Option<u8> {
        Some(self.word(off)? as u8)
    }

    /// The big-endian 16-bit number at `off`; a byte past the end reads as zero.
    #[inline(always)] // as above
    fn be16(&self, off: usize) -> Option<u16> {
        Some((self.word(off)? as u16).swap_bytes())
    }
}

impl Reader for &[u8] {
    fn word(&self, off: usize) -> Option<u64> {
        let rest = self.get(off..)?;
        if rest.is_empty() {
            return None;
        }
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(rest) {
            *to = *from;
        }
        Some(u64::from_le_bytes(bytes))
    }

    fn block(&self, off: usize) -> Option<[u64; 4]> {
        let end = off.checked_add(32)?;
        let whole = self.get(off..end)?;
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(whole.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        Some(words)
    }
}
