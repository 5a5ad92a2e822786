//! What a parse has found so far, and its results.
//!
//! In the kernel this lies in a per-CPU map value and every access is volatile: an offset that the verifier could
//! follow through registers makes it walk every path of the scan apart (measured: 250 k instead of 18 k
//! instructions). On the host it lies on the stack and costs nothing.

use core::{
    cell::Cell,
    ptr::{read_volatile, write_volatile},
};

use crate::{
    abi::Explained,
    hash::{SipHash, padded},
    sip::{Kind, Method},
};

/// Offsets into the frame, 0 while unset, and what was read there.
///
/// All of it lies in cells: several functions of a program hold a reference to the one value of its CPU at the same
/// time.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Marks {
    slot: Cell<u16>,
    start: Cell<u16>,
    end: Cell<u16>,
    first: Cell<u16>,
    call_id: Cell<u16>,
    cseq: Cell<u16>,
    via: Cell<u16>,
    kind_code: Cell<u16>,
    status: Cell<u16>,
    method_code: Cell<u16>,
    call_id_length: Cell<u16>,
    branch: Cell<u16>,
    branch_length: Cell<u16>,
    id: Cell<u16>,
    reason: Cell<u16>,
    pad: Cell<u16>,
    number: Cell<u32>,
    pad2: Cell<u32>,
    hash: Cell<SipHash>,
    reply_key: Cell<u64>,
}

/// A [`Marks`] in words of eight bytes: zeros are one that has seen nothing.
pub type Words = [u64; WORDS];
const WORDS: usize = size_of::<Marks>() / size_of::<u64>();
const _: () = assert!(size_of::<Marks>() == size_of::<Words>() && align_of::<Marks>() == align_of::<Words>());

macro_rules! fields {
    ($($(#[doc = $doc:literal])+ $name:ident, $set:ident: $type:ty;)+) => {
        impl Marks {
            $(
                $(#[doc = $doc])+
                #[inline(always)] // a call would cost more than the load
                #[must_use]
                pub fn $name(&self) -> $type {
                    // SAFETY: a cell's pointer is valid for reads, and no reference to its inside exists.
                    unsafe { read_volatile(self.$name.as_ptr()) }
                }

                /// Sets the value of the same name.
                #[inline(always)] // as above
                pub fn $set(&self, value: $type) {
                    // SAFETY: as above, for writes.
                    unsafe { write_volatile(self.$name.as_ptr(), value) }
                }
            )+
        }
    };
}

fields! {
    /// Where the UDP payload starts.
    start, set_start: u16;
    /// Where the UDP payload ends.
    end, set_end: u16;
    /// Where the line after the start line begins.
    first, set_first: u16;
    /// Just after the name of the first Call-ID header.
    call_id, set_call_id: u16;
    /// Just after the name of the first CSeq header.
    cseq, set_cseq: u16;
    /// Just after the name of the first Via header.
    via, set_via: u16;
    /// Code of the [`Kind`] of message; 0: not known yet.
    kind_code, set_kind_code: u16;
    /// Status code of a response.
    status, set_status: u16;
    /// Code of the [`Method`], of a request only whether it is INVITE; 0: not known yet.
    method_code, set_method_code: u16;
    /// Length of the Call-ID in bytes.
    call_id_length, set_call_id_length: u16;
    /// Where the branch of the top Via begins; 0 without one.
    branch, set_branch: u16;
    /// Length of the branch in bytes.
    branch_length, set_branch_length: u16;
    /// Where the Call-ID begins.
    id, set_id: u16;
    /// Number of the outcome for which the packet is punted.
    reason, set_reason: u16;
    /// The CSeq number.
    number, set_number: u32;
    /// The hash of what both keys begin with.
    hash, set_hash: SipHash;
    /// The reply key `X`.
    reply_key, set_reply_key: u64;
}

impl Marks {
    /// Kind of message; `None`: not known yet.
    #[inline(always)] // a few compares
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Kind::decode(u64::from(self.kind_code()))
    }

    /// The kind is known.
    #[inline(always)] // a store
    pub fn set_kind(&self, kind: Kind) {
        self.set_kind_code(kind.code() as u16);
    }

    /// The method; of a request only whether it is INVITE.
    #[inline(always)] // a few compares
    #[must_use]
    pub fn method(&self) -> Method {
        match Method::decode(u64::from(self.method_code())) {
            Some(method) => method,
            None => Method::Other,
        }
    }

    /// The method is known.
    #[inline(always)] // a store
    pub fn set_method(&self, method: Method) {
        self.set_method_code(method.code() as u16);
    }

    /// The request key `L`. It is made only here: most replies are found by `X`, and never need it.
    #[inline(always)] // few places
    #[must_use]
    pub fn request_key(&self) -> u64 {
        self.hash().finish(padded(self.call_id_length() as usize) + 8)
    }

    /// `value` modulo 2^16, as a number that neither optimiser nor verifier knows any more.
    #[inline(always)] // its point is to be two instructions in the loop
    #[must_use]
    pub fn hide(&self, value: usize) -> usize {
        let slot = self.slot.as_ptr();
        // SAFETY: a cell's pointer is valid for writes and reads.
        unsafe {
            write_volatile(slot, value as u16);
            read_volatile(slot) as usize
        }
    }

    /// Forgets all of the last message and begins one whose payload lies at `start..end`.
    #[inline(always)] // straight-line stores
    pub fn begin(&self, start: usize, end: usize) {
        let words = core::ptr::from_ref(self).cast_mut().cast::<u64>();
        for word in 0..WORDS {
            // SAFETY: size and alignment are those of as many words, zero is a value of every field, and each byte lies
            // in a cell.
            unsafe { write_volatile(words.wrapping_add(word), 0) };
        }
        self.set_start(start as u16);
        self.set_end(end as u16);
    }

    /// The results for `explain`.
    #[must_use]
    pub fn explained(&self) -> Explained {
        Explained {
            request_key: self.request_key(),
            reply_key: self.reply_key(),
            result: crate::abi::EXPLAINED_KEY,
            cseq: self.number(),
            call_id: [self.id(), self.call_id_length()],
            branch: [self.branch(), self.branch_length()],
            kind: self.kind_code(),
            status: self.status(),
            pad: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(marks: &Marks) -> [u64; WORDS] {
        let words = core::ptr::from_ref(marks).cast::<Words>();
        // SAFETY: size and alignment were compared, and any bytes are words.
        unsafe { read_volatile(words) }
    }

    #[test]
    fn nothing_of_the_last_message_is_left_where_another_begins() {
        let mut marks = Marks::default();
        // SAFETY: size and alignment were compared, and any bytes are a value of each field.
        unsafe { write_volatile((&raw mut marks).cast::<Words>(), [u64::MAX; WORDS]) };
        assert_eq!((marks.kind_code(), marks.number(), marks.reply_key()), (u16::MAX, u32::MAX, u64::MAX));
        marks.begin(42, 77);
        assert_eq!((marks.start(), marks.end()), (42, 77));
        marks.set_start(0);
        marks.set_end(0);
        assert_eq!(words(&marks), [0; WORDS]);
    }

    #[test]
    fn every_byte_lies_in_a_named_field() {
        let Marks { slot, start, end, first, call_id, cseq, via, kind_code, status, method_code, .. } =
            &Marks::default();
        let Marks { call_id_length, branch, branch_length, id, reason, pad, .. } = &Marks::default();
        let Marks { number, pad2, hash, reply_key, .. } = &Marks::default();
        let small = [slot, start, end, first, call_id, cseq, via, kind_code, status, method_code].map(size_of_val);
        let more = [call_id_length, branch, branch_length, id, reason, pad].map(size_of_val);
        let large = [number, pad2].map(size_of_val).iter().sum::<usize>() + size_of_val(hash) + size_of_val(reply_key);
        assert_eq!(small.iter().chain(&more).sum::<usize>() + large, size_of::<Marks>());
    }
}
