//! All maps, with who writes and who reads each. A map's values are reached by pointer here only.

use core::{
    arch::asm,
    ptr::{read_volatile, write_volatile},
};

use aya_ebpf::{
    helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
    macros::map,
    maps::{Array, PerCpuArray, ProgramArray, RingBuf, ring_buf::RingBufEntry},
    programs::XdpContext,
};
use forwarder_common::{
    abi::{
        ClaimEvent, Config, DATAGRAM_SLOTS, EVENT_BYTES, Explained, LeaseWord, NODES as NODE_COUNT, Node, PEER_SLOTS,
        PORT_WORDS, PUNT_BYTES, Peer, Punt, SERVICE_PROBES, SERVICE_SLOTS, SUCCESSOR_SLOTS, Service, ServiceKey,
        ServiceSlot,
    },
    bound::{self, Buckets as _},
    claim,
    ids::Epochs,
    marks::{Marks, Words},
    outcome::{Outcome, SLOTS as OUTCOMES},
    rest::{Rest, Stage, Step},
    table::{Buckets, Entry, Place, SLOTS},
};

/// Daemon -> all programs. One entry; an array because its look-up is inlined.
#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
/// Daemon -> all programs: address and port of each service and source, and each address with port 0. By open
/// addressing: a hash map costs a helper call.
#[map]
static SERVICES: Array<ServiceSlot> = Array::with_max_entries(SERVICE_SLOTS, 0);
/// Daemon -> all programs: one bit per port of a service or source, so that most packets end before that look-up.
#[map]
static PORTS: Array<u64> = Array::with_max_entries(PORT_WORDS, 0);
/// Daemon -> ingress, egress: one word per node id.
#[map]
static NODES: Array<u64> = Array::with_max_entries(NODE_COUNT, 0);
/// Daemon -> ingress: addresses and next hops, two halves per node id; the word of the node says which is valid.
#[map]
static PEERS: Array<Peer> = Array::with_max_entries(PEER_SLOTS, 0);
/// Egress and daemon -> ingress, egress, daemon: the claim table. Its real size is set at load time.
#[map]
static CLAIMS: Array<[u64; SLOTS]> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Egress and daemon -> daemon: the rest of the key of each claim of this node, at the same places. As large as the
/// table.
#[map]
static KEYS: Array<[u64; SLOTS]> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// All programs -> daemon: outcomes. Per CPU: no shared cache line.
#[map]
static STATISTICS: PerCpuArray<[u64; OUTCOMES as usize]> = PerCpuArray::with_max_entries(1, 0);
/// Egress -> daemon: claims.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);
/// Punts -> daemon: packets that the daemon is to deal with.
#[map]
static PUNTS: RingBuf = RingBuf::with_byte_size(PUNT_BYTES, 0);
/// Daemon -> ingress: the program that hands packets over. Not pinned: see `punt.rs`.
#[map]
static DAEMON: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// Punts: how many packets were taken in this CPU's window, and since when, of two classes.
#[map]
static PUNT_RATE: PerCpuArray<[u64; 4]> = PerCpuArray::with_max_entries(1, 0);
/// Daemon -> ingress: who reassembles fragments, by `net::datagram_slot`; 0 where nobody does.
#[map]
static REASSEMBLERS: Array<u16> = Array::with_max_entries(DATAGRAM_SLOTS, 0);
/// Daemon -> ingress: who takes the new transactions of each slot while this node takes none; 0 where nobody can.
#[map]
static SUCCESSORS: Array<u16> = Array::with_max_entries(SUCCESSOR_SLOTS, 0);
/// Daemon -> ingress, egress: what this node does with what nobody owns. One word, written at once.
#[map]
static LEASE: Array<u64> = Array::with_max_entries(1, 0);
/// Egress: the datagram whose first fragment this CPU has last given to the daemon, see `egress::later_fragment`.
#[map]
static FRAGMENTED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Ingress, explain: scratch of the parser.
#[map]
static MARKS_INGRESS: PerCpuArray<Words> = PerCpuArray::with_max_entries(1, 0);
/// Egress: its own scratch, for egress may interrupt ingress.
#[map]
static MARKS_EGRESS: PerCpuArray<Words> = PerCpuArray::with_max_entries(1, 0);
/// Explain -> daemon: what it found.
#[map]
static EXPLAINED: Array<Explained> = Array::with_max_entries(1, 0);

/// Ingress: what was sent lately of keys and by sources of fragments, see `forwarder-common/src/bound.rs`.
#[map]
static SENT: Array<u64> = Array::with_max_entries(bound::CELLS, 0);
/// Ingress: what was sent lately to each node, and above that what its daemon must finish.
#[map]
static SENT_TO: Array<u64> = Array::with_max_entries(2 * NODE_COUNT, 0);
/// Ingress: what this CPU has sent to each node that is not in the above yet, in nanoseconds of its bucket.
#[map]
static OWED: PerCpuArray<[u64; NODE_COUNT as usize]> = PerCpuArray::with_max_entries(1, 0);

/// All programs: the jiffy at which this CPU last asked for the time, and the time in nanoseconds.
#[map]
static CLOCK: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// Decapsulation: when this CPU last wrote a log record, in nanoseconds.
#[map]
static LOGGED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Egress: when this CPU last showed the daemon SIP that is no service's, in nanoseconds.
#[map]
static SHOWN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Slots of [`WEIGHED`]: a power of two, more than claims and the newcomer are.
const WEIGHED_SLOTS: usize = 32;
/// Egress: scratch of `room.rs`, how the claims stand among which one has to give way.
#[map]
static WEIGHED: PerCpuArray<[u64; WEIGHED_SLOTS]> = PerCpuArray::with_max_entries(1, 0);

/// Shortest time between two log records of one CPU, or two packets that it shows the daemon, in nanoseconds.
const INTERVAL_NS: u64 = 1_000_000_000;
/// `BPF_F_MMAPABLE` of linux/bpf.h.
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// The configuration, once the daemon has written it.
#[inline(always)] // an inlined array look-up
pub(crate) fn config() -> Option<&'static Config> {
    let config = CONFIG.get(0)?;
    if config.node == 0 { None } else { Some(config) }
}

/// The service with this key.
#[inline(always)] // mostly one inlined array look-up
pub(crate) fn service(key: &ServiceKey) -> Option<Service> {
    let first = key.slot();
    for probe in 0..SERVICE_PROBES {
        let slot = SERVICES.get((first + probe) % SERVICE_SLOTS)?;
        if slot.service.flags == 0 {
            return None;
        }
        if slot.key.is(key) {
            return Some(slot.service);
        }
    }
    None
}

/// Whether some service or source has this port.
#[inline(always)] // an inlined array look-up
pub(crate) fn is_service_port(port: u16) -> bool {
    let Some(word) = PORTS.get(u32::from(port) / 64) else { return false };
    (*word >> (port & 63)) & 1 != 0
}

/// What is known of a node.
#[inline(always)] // an inlined array look-up
pub(crate) fn node(id: u16) -> Node {
    let Some(word) = NODES.get_ptr(u32::from(id)) else { return Node::default() };
    // SAFETY: the pointer is a map value's; the daemon writes whole words.
    Node(unsafe { read_volatile(word) })
}

/// The live epochs of a node, this one or a peer; none of one that is down.
#[inline(always)] // an inlined array look-up
pub(crate) fn live_epochs(id: u16, config: &Config) -> Epochs {
    if id == config.node {
        return config.epochs();
    }
    let node = node(id);
    claim::live(node.is_up(), node.epochs())
}

/// The peer in a slot of the peers map.
#[inline(always)] // an inlined array look-up
pub(crate) fn peer(slot: u32) -> Option<&'static Peer> {
    PEERS.get(slot)
}

/// Counts a packet's outcome.
#[inline(always)] // an inlined array look-up and one addition
pub(crate) fn count(outcome: Outcome) {
    if let Some(slots) = STATISTICS.get_ptr_mut(0) {
        let mut slot = outcome.number() as usize;
        // SAFETY: one instruction on one register. The compiler knows that no outcome has a greater number and would
        // leave the mask out; the verifier of Linux 6.1 does not.
        unsafe { asm!("{0} &= {1}", inout(reg) slot, const OUTCOMES - 1, options(nomem, nostack)) }
        let slot = slots.cast::<u64>().wrapping_add(slot);
        // SAFETY: the slot is masked to the array's size, and no other CPU writes this CPU's value.
        unsafe { *slot += 1 };
    }
}

/// Whether a log record may be written now.
#[inline(always)] // a few instructions
pub(crate) fn may_log(now_ns: u64) -> bool {
    LOGGED.get_ptr_mut(0).is_some_and(|last| is_due(last, now_ns))
}

/// Whether the daemon may be shown a packet now.
#[inline(always)] // a few instructions
pub(crate) fn may_show(now_ns: u64) -> bool {
    SHOWN.get_ptr_mut(0).is_some_and(|last| is_due(last, now_ns))
}

/// Whether the last time is long past; then it is now.
#[inline(always)] // a few instructions
fn is_due(last: *mut u64, now_ns: u64) -> bool {
    // SAFETY: a per-CPU value that only one hook writes.
    unsafe {
        if *last != 0 && now_ns.wrapping_sub(*last) < INTERVAL_NS {
            return false;
        }
        *last = now_ns;
    }
    true
}

/// The node that reassembles the fragments of this slot; 0 if nobody does.
#[inline(always)] // an inlined array look-up
pub(crate) fn reassembler(slot: u32) -> u16 {
    REASSEMBLERS.get(slot).copied().unwrap_or(0)
}

/// The healthy peer that takes the new transactions of this slot; 0 if nobody does.
#[inline(always)] // an inlined array look-up
pub(crate) fn successor(slot: u32) -> u16 {
    SUCCESSORS.get(slot & (SUCCESSOR_SLOTS - 1)).copied().unwrap_or(0)
}

/// Whether one more packet of a key or a source, by its two cells, may be sent; then it is charged.
#[inline(always)] // two places
pub(crate) fn may_send_of(cells: [u32; 2], now_ns: u64, cost_ns: u64) -> bool {
    Shared(|cell| SENT.get_ptr_mut(cell)).pay_either(cells, now_ns, cost_ns)
}

/// Whether one more packet that only its daemon can finish may be sent to a node; then it is charged.
#[inline(always)] // rare
pub(crate) fn may_send_slow(node: u16, now_ns: u64, cost_ns: u64) -> bool {
    let bucket = (u32::from(node) & (NODE_COUNT - 1)) | NODE_COUNT;
    Shared(|bucket| SENT_TO.get_ptr_mut(bucket)).pay(bucket, now_ns, cost_ns, bound::NODE_BURST_NS)
}

/// Whether one more packet may be sent to a node; then it is charged. Mostly this CPU's own account says so: a word
/// that all CPUs write for each packet would cost more than the packet.
#[inline(always)] // once
pub(crate) fn may_send_to(node: u16, now_ns: u64, cost_ns: u64) -> bool {
    let bucket = u32::from(node) & (NODE_COUNT - 1);
    let Some(owed) = OWED.get_ptr_mut(0) else { return true };
    let owed = owed.cast::<u64>().wrapping_add(bucket as usize);
    // SAFETY: the pointer lies in a map value, for the bucket is masked to its size; no other CPU writes this CPU's.
    let all = unsafe { read_volatile(owed) } + cost_ns;
    let is_paid = all >= bound::CREDIT_NS;
    let shared = Shared(|bucket| SENT_TO.get_ptr_mut(bucket));
    if is_paid && !shared.pay(bucket, now_ns, all, bound::NODE_BURST_NS) {
        return false;
    }
    // SAFETY: as above.
    unsafe { write_volatile(owed, if is_paid { 0 } else { all }) };
    true
}

/// Words of a map that several CPUs write, by its look-up.
struct Shared<F>(F);

impl<F: Fn(u32) -> Option<*mut u64>> bound::Buckets for Shared<F> {
    #[inline(always)] // an inlined array look-up
    fn paid_ns(&self, bucket: u32) -> u64 {
        // SAFETY: the pointer is a map value's, aligned to eight bytes, and words are read whole.
        self.0(bucket).map_or(0, |word| unsafe { read_volatile(word) })
    }

    #[inline(always)] // as above
    fn set(&self, bucket: u32, paid_ns: u64) {
        let Some(word) = self.0(bucket) else { return };
        // SAFETY: as above, for writes.
        unsafe { write_volatile(word, paid_ns) };
    }

    #[inline(always)] // as above
    fn add(&self, bucket: u32, ns: u64) {
        let Some(word) = self.0(bucket) else { return };
        // SAFETY: as above. The instruction is as old as eBPF; the target's core library has no atomics.
        unsafe { asm!("lock *(u64 *)({word} + 0) += {ns}", word = in(reg) word, ns = in(reg) ns, options(nostack)) };
    }
}

/// What this node does with what nobody owns.
#[inline(always)] // an inlined array look-up
pub(crate) fn lease() -> LeaseWord {
    let Some(word) = LEASE.get_ptr(0) else { return LeaseWord::default() };
    // SAFETY: the pointer is a map value's; the daemon writes whole words.
    LeaseWord(unsafe { read_volatile(word) })
}

/// The time as `bpf_ktime_get_coarse_ns` has it, which moves with the jiffies: asked once a jiffy, it costs a load.
#[inline(always)] // an inlined array look-up
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper, which the kernel inlines, takes nothing and touches nothing.
    let jiffies = unsafe { bpf_jiffies64() };
    let Some(clock) = CLOCK.get_ptr_mut(0) else { return 0 };
    // SAFETY: a per-CPU value; a program that interrupts another one writes the same, or what is newer.
    unsafe {
        if read_volatile(&raw const (*clock)[0]) != jiffies {
            write_volatile(&raw mut (*clock)[1], bpf_ktime_get_coarse_ns());
            write_volatile(&raw mut (*clock)[0], jiffies);
        }
        read_volatile(&raw const (*clock)[1])
    }
}

/// Notes of which datagram this CPU has given the first fragment to the daemon.
#[inline(always)] // an inlined array look-up
pub(crate) fn set_fragmented(datagram: u64) {
    if let Some(to) = FRAGMENTED.get_ptr_mut(0) {
        // SAFETY: the pointer is a map value's, and no other CPU writes it.
        unsafe { write_volatile(to, datagram) };
    }
}

/// The datagram of the last [`set_fragmented`] of this CPU.
#[inline(always)] // an inlined array look-up
pub(crate) fn fragmented() -> u64 {
    let Some(from) = FRAGMENTED.get_ptr(0) else { return 0 };
    // SAFETY: as above.
    unsafe { read_volatile(from) }
}

/// Goes on in the daemon's program; returns only if there is none.
#[inline(always)] // a tail call must be made by the entry program itself
pub(crate) fn call_daemon(ctx: &XdpContext) {
    // SAFETY: nothing of this program has to be undone, and the other has the same context.
    unsafe { DAEMON.tail_call(ctx, 0) };
}

/// Nanoseconds of a window of the punts' rate: a power of two, about an eighth of a second.
const PUNT_WINDOW_SHIFT: u32 = 27;
/// Packets per window and CPU that wait for an owner, about 7,500 a second: what a peer can be asked about.
const ASKS_A_WINDOW: u64 = 1000;
/// Packets per window and CPU of all other reasons, about 15,000 a second: injecting one takes some 40 µs.
const PUNTS_A_WINDOW: u64 = 2000;

/// Whether one more packet may be handed over now. Two classes, so that a flood of replies leaves room for fragments.
#[inline(always)] // part of the punt
pub(crate) fn may_punt(now_ns: u64, asks: bool) -> bool {
    let Some(rate) = PUNT_RATE.get_ptr_mut(0) else { return false };
    let (class, most) = if asks { (2, ASKS_A_WINDOW) } else { (0, PUNTS_A_WINDOW) };
    let window = now_ns >> PUNT_WINDOW_SHIFT;
    // SAFETY: a per-CPU value of four words that only this program writes; `class` is 0 or 2.
    unsafe {
        let since = rate.cast::<u64>().wrapping_add(class);
        let taken = since.wrapping_add(1);
        if *since != window {
            *since = window;
            *taken = 0;
        }
        *taken += 1;
        *taken <= most
    }
}

/// A record of the punts' ring buffer with room for `N` bytes of a frame.
#[repr(C)]
pub(crate) struct Record<const N: usize> {
    head: Punt,
    frame: [u8; N],
}

/// A record that is being filled.
pub(crate) struct Filling<const N: usize>(RingBufEntry<Record<N>>);

/// Takes room in the punts' ring buffer.
#[inline(always)] // one helper call
pub(crate) fn reserve<const N: usize>() -> Option<Filling<N>> {
    PUNTS.reserve::<Record<N>>(0).map(Filling)
}

impl<const N: usize> Filling<N> {
    /// Writes the head, has `load` write the frame, and sends the record; gives the room back if `load` fails.
    #[inline(always)] // one helper call
    pub(crate) fn fill(mut self, head: Punt, load: impl FnOnce(*mut u8) -> bool) -> Option<()> {
        let record = self.0.as_mut_ptr();
        // SAFETY: the record is reserved memory of this size; the head is written and the frame's address taken.
        let frame = unsafe {
            (&raw mut (*record).head).write(head);
            (&raw mut (*record).frame).cast()
        };
        if load(frame) {
            self.0.submit(0);
            return Some(());
        }
        self.0.discard(0);
        None
    }
}

/// Tells the daemon of a claim; false if the ring buffer is full.
#[inline(always)] // one helper call
pub(crate) fn tell(event: ClaimEvent) -> bool {
    EVENTS.output::<ClaimEvent>(event, 0).is_ok()
}

/// The parser's scratch of the ingress hook.
#[inline(always)] // an inlined array look-up
pub(crate) fn marks_ingress() -> Option<&'static Marks> {
    // SAFETY: the value is as large and aligned as marks, zeros are marks, and nothing but cells refers to its inside.
    // A program runs to its end on its CPU, and each hook has its own scratch: nobody else writes it meanwhile.
    Some(unsafe { &*MARKS_INGRESS.get_ptr_mut(0)?.cast::<Marks>() })
}

/// The parser's scratch of the egress hook.
#[inline(always)] // an inlined array look-up
pub(crate) fn marks_egress() -> Option<&'static Marks> {
    // SAFETY: as above.
    Some(unsafe { &*MARKS_EGRESS.get_ptr_mut(0)?.cast::<Marks>() })
}

/// Writes what the explain program found.
pub(crate) fn explained(found: Explained) {
    if let Some(to) = EXPLAINED.get_ptr_mut(0) {
        // SAFETY: the pointer is a map value's; only test runs write it, one at a time.
        unsafe { write_volatile(to, found) };
    }
}

/// Notes the rest of the key of a claim of this node that has just been put at `place`, new or over an earlier one of
/// the same key, and how far its transaction has come.
#[inline(always)] // one place
pub(crate) fn note_rest(place: Place, key: u64, rest: Rest, is_new: bool, step: Step) {
    let Some(word) = key_word(place) else { return };
    // SAFETY: the pointer lies in a map value, aligned to eight bytes, and words are read and written whole.
    let old = Rest(unsafe { read_volatile(word) });
    let stage = if !is_new && old.is_of(key) { old.stage() } else { Stage::Begun };
    // SAFETY: as above.
    unsafe { write_volatile(word, rest.at(stage).after(step).0) };
}

/// Notes how far the transaction has come whose request key `key` this node has claimed at `place`.
#[inline(always)] // one place
pub(crate) fn note_step(place: Place, key: u64, step: Step) {
    if matches!(step, Step::Stays) {
        return;
    }
    let Some(word) = key_word(place) else { return };
    // SAFETY: as above.
    let old = Rest(unsafe { read_volatile(word) });
    let new = old.after(step);
    if new != old && old.is_of(key) {
        // Who has written meanwhile has noted something later, or is of another claim.
        exchange(word, old.0, new.0);
    }
}

/// The word beside an entry.
#[inline(always)] // an inlined array look-up
fn key_word(place: Place) -> Option<*mut u64> {
    let line = KEYS.get_ptr_mut(place.bucket)?;
    Some(line.cast::<u64>().wrapping_add((place.slot & (SLOTS as u32 - 1)) as usize))
}

/// Writes a word of a map's value if it is still `old`; whether it was.
#[inline(always)] // one instruction
fn exchange(word: *mut u64, old: u64, new: u64) -> bool {
    let mut seen = old;
    // SAFETY: the callers' pointers lie in map values, aligned to eight bytes. The target's core library has no
    // compare-and-swap, though kernels since 5.12 have (commit 5ffa25502b5a).
    unsafe {
        asm!("r0 = cmpxchg_64({word} + 0, r0, {new})", word = in(reg) word, new = in(reg) new,
            inout("r0") seen, options(nostack));
    }
    seen == old
}

/// What stands beside the entry at `place`; nothing outside the table.
#[inline(always)] // an inlined array look-up
pub(crate) fn rest(place: Place) -> Rest {
    let Some(line) = KEYS.get_ptr(place.bucket) else { return Rest::default() };
    let word = line.cast::<u64>().wrapping_add((place.slot & (SLOTS as u32 - 1)) as usize);
    // SAFETY: the pointer lies in a map value, aligned to eight bytes, and words are read whole.
    Rest(unsafe { read_volatile(word) })
}

/// How the claim with this number stands, of those that egress weighs against each other.
#[inline(always)] // an inlined array look-up
pub(crate) fn weighed(number: usize) -> u64 {
    let Some(weighed) = WEIGHED.get_ptr(0) else { return 0 };
    let word = weighed.cast::<u64>().wrapping_add(number & (WEIGHED_SLOTS - 1));
    // SAFETY: the pointer lies in a map value, aligned to eight bytes.
    unsafe { read_volatile(word) }
}

/// Notes how it stands.
#[inline(always)] // as above
pub(crate) fn set_weighed(number: usize, standing: u64) {
    let Some(weighed) = WEIGHED.get_ptr_mut(0) else { return };
    let word = weighed.cast::<u64>().wrapping_add(number & (WEIGHED_SLOTS - 1));
    // SAFETY: as above, and no other CPU writes this CPU's.
    unsafe { write_volatile(word, standing) };
}

/// The claim table, with the scratch that hides numbers.
pub(crate) struct Claims<'a>(pub(crate) &'a Marks);

impl Claims<'_> {
    #[inline(always)] // one instruction
    fn slot(line: *mut u64, slot: u32) -> *mut u64 {
        line.wrapping_add((slot & (SLOTS as u32 - 1)) as usize)
    }
}

impl Buckets for Claims<'_> {
    type Line = *mut u64;

    #[inline(always)] // an inlined array look-up
    fn line(&self, bucket: u32) -> Option<*mut u64> {
        Some(CLAIMS.get_ptr_mut(bucket)?.cast())
    }

    #[inline(always)] // unrolled in look-ups
    fn read(&self, line: *mut u64, slot: u32) -> Entry {
        // SAFETY: the pointer lies in a map value, aligned to eight bytes.
        Entry(unsafe { read_volatile(Self::slot(line, slot)) })
    }

    #[inline(always)] // one instruction
    fn exchange(&self, place: Place, old: Entry, new: Entry) -> bool {
        let Some(line) = self.line(place.bucket) else { return false };
        exchange(Self::slot(line, place.slot), old.0, new.0)
    }

    #[inline(always)] // two instructions
    fn hide(&mut self, value: u64) -> u64 {
        self.0.hide(value as usize) as u64
    }
}
