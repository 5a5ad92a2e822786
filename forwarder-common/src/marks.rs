//! What a parse has found so far, and its results.
//!
//! In the kernel this lies in a per-CPU map value and every access is volatile: an offset that the verifier could
//! follow through registers makes it walk every path of the scan apart (measured: 250 k instead of 18 k
//! instructions). On the host it lies on the stack and costs nothing.

use core::ptr::{read_volatile, write_volatile};

use crate::{
    abi::Explained,
    hash::{SipHash, padded},
};

/// Offsets into the frame, 0 while unset, and what was read there.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Marks {
    slot: u16,
    start: u16,
    end: u16,
    first: u16,
    call_id: u16,
    cseq: u16,
    via: u16,
    kind: u16,
    status: u16,
    invite: u16,
    call_id_length: u16,
    branch: u16,
    branch_length: u16,
    id: u16,
    pad: u16,
    reason: u16,
    number: u32,
    pad2: u32,
    hash: SipHash,
    reply_key: u64,
}

macro_rules! fields {
    ($($(#[doc = $doc:literal])+ $name:ident, $set:ident: $type:ty;)+) => {
        impl Marks {
            $(
                $(#[doc = $doc])+
                #[inline(always)] // a call would cost more than the load
                #[must_use]
                pub fn $name(&self) -> $type {
                    // SAFETY: a reference is always valid for reads.
                    unsafe { read_volatile(&raw const self.$name) }
                }

                /// Sets the value of the same name.
                #[inline(always)] // as above
                pub fn $set(&mut self, value: $type) {
                    // SAFETY: an exclusive reference is always valid for writes.
                    unsafe { write_volatile(&raw mut self.$name, value) }
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
    /// Kind of message as in [`Explained::kind`].
    kind, set_kind: u16;
    /// Status code of a response.
    status, set_status: u16;
    /// 1 if the transaction is an INVITE's (request line of a request, CSeq of a response).
    invite, set_invite: u16;
    /// Length of the Call-ID in bytes.
    call_id_length, set_call_id_length: u16;
    /// Where the branch of the top Via begins; 0 without one.
    branch, set_branch: u16;
    /// Length of the branch in bytes.
    branch_length, set_branch_length: u16;
    /// Where the Call-ID begins.
    id, set_id: u16;
    /// Number of the outcome for which the packet is handed to the daemon.
    reason, set_reason: u16;
    /// The CSeq number.
    number, set_number: u32;
    /// The hash of what both keys begin with.
    hash, set_hash: SipHash;
    /// The reply key `X`.
    reply_key, set_reply_key: u64;
}

impl Marks {
    /// The request key `L`. It is made only here: most replies are found by `X`, and never need it.
    #[inline(always)] // few places
    #[must_use]
    pub fn request_key(&self) -> u64 {
        self.hash().finish(padded(self.call_id_length() as usize) + 8)
    }

    /// `value` modulo 2^16, as a number that neither optimiser nor verifier knows any more.
    #[inline(always)] // its point is to be two instructions in the loop
    pub fn hide(&mut self, value: usize) -> usize {
        // SAFETY: an exclusive reference is always valid for writes and reads.
        unsafe {
            write_volatile(&raw mut self.slot, value as u16);
            read_volatile(&raw const self.slot) as usize
        }
    }

    /// Forgets the last message and begins one whose payload lies at `start..end`.
    #[inline(always)] // straight-line stores
    pub fn begin(&mut self, start: usize, end: usize) {
        self.set_start(start as u16);
        self.set_end(end as u16);
        self.set_first(0);
        self.set_call_id(0);
        self.set_cseq(0);
        self.set_via(0);
        self.set_status(0);
        self.set_invite(0);
        self.set_branch(0);
        self.set_branch_length(0);
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
            kind: self.kind(),
            status: self.status(),
            pad: 0,
        }
    }
}
