//! What the benchmark's runner and its feeding programs share: layouts, and the arithmetic of indices, keys and
//! letters.

/// Frames to choose from.
pub(crate) const TEMPLATES: u32 = 256;
/// Bytes of a frame that a feeding program can restore.
pub(crate) const TEMPLATE_BYTES: usize = 2048;
/// Real servers of the balancer.
pub(crate) const REALS: u32 = 64;

/// What a feeding program does to the frame before each run.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Feed {
    /// Length of the frame: what a run has made longer or shorter is undone.
    pub(crate) length: u32,
    /// Bytes written anew from the beginning of the frame; 0 for none.
    pub(crate) restore: u32,
    /// Where the frame is patched; 0 for nowhere.
    pub(crate) patch_at: u32,
    /// [`LETTERS`] or [`RAW`].
    pub(crate) patch: u32,
    /// Indices to draw from: `first..first + count`.
    pub(crate) first: u32,
    /// How many.
    pub(crate) count: u32,
    /// [`RANDOM`], or 1 to count up.
    pub(crate) order: u32,
    /// Templates in use less one; the lowest bits of the index choose one.
    pub(crate) templates: u32,
    /// State of the draw.
    pub(crate) state: u64,
}

/// The index as eight letters.
pub(crate) const LETTERS: u32 = 0;
/// The index as four bytes.
pub(crate) const RAW: u32 = 1;
/// Indices are drawn at random; with any other order they count up.
pub(crate) const RANDOM: u32 = 0;

/// A frame to restore, and where in it the index goes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Template {
    /// As in [`Feed`]; that one counts where there is one template only.
    pub(crate) patch_at: u32,
    /// Zero.
    pub(crate) pad: u32,
    /// The frame.
    pub(crate) bytes: [u8; TEMPLATE_BYTES],
}

/// The next state of the draw (Knuth's multiplier).
#[inline(always)]
#[must_use]
pub(crate) const fn next(state: u64) -> u64 {
    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

/// An index as eight letters from `a` to `p`, as they lie in memory.
#[inline(always)]
#[must_use]
pub(crate) const fn letters(index: u32) -> u64 {
    let mut word = index as u64;
    word = (word | word << 16) & 0x0000_ffff_0000_ffff;
    word = (word | word << 8) & 0x00ff_00ff_00ff_00ff;
    word = (word | word << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    word.wrapping_add(0x6161_6161_6161_6161)
}

/// The key of an index for programs that look up keys alone.
#[inline(always)]
#[must_use]
pub(crate) const fn mixed(index: u32) -> u64 {
    let mut x = (index as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A flow of the balancer: source, destination, ports, protocol, as they lie in memory.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Flow(pub(crate) [u32; 4]);

/// A server of the balancer.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Real {
    /// Its IPv4 address as it lies in memory.
    pub(crate) address: u32,
    /// This host's, likewise.
    pub(crate) source: u32,
    /// MAC addresses: destination, source, and two bytes of zero.
    pub(crate) macs: [u32; 4],
}
