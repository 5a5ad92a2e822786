//! What is measured: one row a program and kind of packet, with the outcome that it must have and the limit of its
//! cost.

use anyhow::Result;

use crate::{
    feed::{Feed, Flow, LETTERS, RANDOM, RAW, TEMPLATES},
    frames::{Frame, Kind, ME, Message, PEER, datagram, syn, tunnelled},
    kernel::Forwarder,
    yardstick::Yardstick,
};

/// Calls in the claim table, each with a request key and a reply key; the first half is this node's.
pub(crate) const CALLS: u32 = 1 << 19;
/// Texts that are varied.
const TEXTS: u32 = TEMPLATES;
/// Indices of the hot calls.
pub(crate) const HOT: [u32; 2] = [0x0100_0000, 0x0100_0001];
/// Indices from here on are nobody's.
const UNKNOWN: u32 = 0x0200_0000;
/// Indices from here on are claimed by the rows of insertion.
const NEW: u32 = 0x0400_0000;
/// Slots of the tables that are compared with each other.
pub(crate) const SLOTS: u32 = 1 << 21;

/// Which of the loaded objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Which {
    Yardstick,
    /// The forwarder with a peer over IPv4.
    Four,
    /// The same over IPv6.
    Six,
    /// The same as `Four`, with a claim table that is filled anew before each round.
    Fresh,
    /// The yardstick with its tables filled so far, in percent of their slots.
    Tables(u8),
    /// The forwarder with its claim table filled so far.
    Filled(u8),
    /// The forwarder with an LRU hash of as many slots in the place of its claim table, filled as far.
    Lru(u8),
}

impl Which {
    /// Keys in the tables.
    pub(crate) const fn filled(self) -> u32 {
        match self {
            Self::Tables(percent) | Self::Filled(percent) | Self::Lru(percent) => SLOTS / 100 * percent as u32,
            Self::Yardstick | Self::Four | Self::Six | Self::Fresh => 0,
        }
    }
}

/// One row.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) which: Which,
    pub(crate) program: &'static str,
    pub(crate) frame: Vec<u8>,
    pub(crate) feeding: Option<Feeding>,
    /// Every packet ends so.
    pub(crate) outcome: Option<&'static str>,
    /// At most so many times the empty program.
    pub(crate) limit: Option<f64>,
    /// Runs in a round; 0 for as many as take a few milliseconds.
    pub(crate) repeat: u32,
}

/// How frames are fed to a program.
#[derive(Clone, Default)]
pub(crate) struct Feeding {
    pub(crate) feed: Feed,
    pub(crate) texts: Vec<(Vec<u8>, usize)>,
}

impl Row {
    fn new(name: impl Into<String>, which: Which, program: &'static str, frame: &[u8]) -> Self {
        let frame = frame.to_vec();
        let (feeding, outcome, limit) = (None, None, None);
        Self { name: name.into(), which, program, frame, feeding, outcome, limit, repeat: 0 }
    }

    fn outcome(mut self, outcome: &'static str) -> Self {
        self.outcome = Some(outcome);
        self
    }

    fn limit(mut self, limit: f64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// What a run has done to the frame is undone, and its first bytes are written anew.
    fn undone(mut self, restore: u32) -> Self {
        let feed = Feed { length: self.frame.len() as u32, restore, ..Feed::default() };
        self.feeding = Some(Feeding { feed, texts: vec![(self.frame.clone(), 0)] });
        self
    }

    /// The program that feeds it, if one does.
    pub(crate) fn feeder(&self) -> &'static str {
        if self.is_tc() { "feed_tc" } else { "feed_xdp" }
    }

    /// It runs at egress.
    pub(crate) fn is_tc(&self) -> bool {
        matches!(self.program, "forwarder_egress" | "empty_tc")
    }

    /// It draws its keys itself.
    pub(crate) fn draws(&self) -> bool {
        matches!(self.which, Which::Tables(_))
    }

    /// The same feeding with nothing fed: what is taken off.
    pub(crate) fn feeding_alone(&self) -> Self {
        let program = if self.is_tc() { "empty_tc" } else { "empty_xdp" };
        Self { which: Which::Yardstick, program, outcome: None, limit: None, ..self.clone() }
    }
}

pub(crate) fn sip(v6: bool, out: bool, message: &Message) -> (Frame, usize) {
    let frame = datagram(v6, out, 5060, &message.bytes);
    let at = frame.payload + message.letters_at;
    (frame, at)
}

pub(crate) fn with_letters((mut frame, at): (Frame, usize), index: u32) -> Vec<u8> {
    for (to, from) in frame.bytes.iter_mut().skip(at).zip(crate::feed::letters(index).to_le_bytes()) {
        *to = from;
    }
    frame.bytes
}

/// All rows, in the order of the report.
pub(crate) fn all() -> Vec<Row> {
    let empty = datagram(false, false, 5060, &[0; 22]).bytes;
    let mut rows = vec![
        Row::new("empty XDP program", Which::Yardstick, "empty_xdp", &empty),
        Row::new("empty TC program", Which::Yardstick, "empty_tc", &empty),
    ];
    others(&mut rows);
    hot(&mut rows);
    varied(&mut rows);
    decapsulation(&mut rows);
    egress(&mut rows);
    balancer(&mut rows);
    tables(&mut rows);
    stores(&mut rows);
    rows
}

fn ip(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

fn others(rows: &mut Vec<Row>) {
    let mut dns = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    dns.extend(b"\x07example\x03com\0\0\x01\0\x01");
    for v6 in [false, true] {
        let frames = [
            ("RTP", datagram(v6, false, 20_000, &[0x80; 172])),
            ("DNS", datagram(v6, false, 53, &dns)),
            ("TCP SYN", syn(v6)),
        ];
        for (name, frame) in frames {
            let name = format!("{name}, not for a service, {}", ip(v6));
            rows.push(Row::new(name, Which::Four, "forwarder_ingress", &frame.bytes).outcome("not_service").limit(1.5));
        }
        let frame = datagram(v6, false, 5060, b"\r\n\r\n");
        let name = format!("keep-alive, {}", ip(v6));
        rows.push(Row::new(name, Which::Four, "forwarder_ingress", &frame.bytes).outcome("keep_alive"));
    }
}

const MESSAGES: [(&str, Kind, usize); 3] =
    [("INVITE 550", Kind::Invite, 550), ("INVITE 1300", Kind::Invite, 1300), ("200 OK 350", Kind::Ok, 350)];

fn hot(rows: &mut Vec<Row>) {
    for (name, kind, length) in MESSAGES {
        for v6 in [false, true] {
            let limited = length != 1300;
            let message = sip(v6, false, &Message::plain(kind, length));
            let frame = |index| with_letters(message.clone(), index);
            let name = |what: &str| format!("{name}, {what}, hot, {}", ip(v6));
            let row = Row::new(name("local"), Which::Four, "forwarder_ingress", &frame(HOT[0])).outcome("local_owner");
            rows.push(if limited { row.limit(8.0) } else { row });
            let which = if v6 { Which::Six } else { Which::Four };
            let row = Row::new(name("forwarded"), which, "forwarder_ingress", &frame(HOT[1])).outcome("forwarded");
            rows.push(if limited { row.limit(12.0) } else { row }.undone(16));
            let outcome = if kind == Kind::Ok { "unknown_response" } else { "local_new" };
            let row = Row::new(name("unknown"), Which::Four, "forwarder_ingress", &frame(UNKNOWN)).outcome(outcome);
            rows.push(row);
        }
    }
}

/// Texts of one length; the index of a call chooses its text.
pub(crate) fn texts(kind: Kind, length: usize) -> Vec<(Vec<u8>, usize)> {
    let texts = (0..TEXTS).map(|seed| sip(false, false, &Message::varied(kind, length, seed)));
    texts.map(|(frame, at)| (frame.bytes, at)).collect()
}

fn varied(rows: &mut Vec<Row>) {
    for (name, kind, length) in MESSAGES {
        let texts = texts(kind, length);
        let frame = texts.first().map(|(bytes, _)| bytes.clone()).unwrap_or_default();
        let unknown = if kind == Kind::Ok { "unknown_response" } else { "local_new" };
        let ways = [
            ("local, 256 claims", 0, TEXTS, "local_owner", None),
            ("local, 1 M claims", 0, CALLS / 2, "local_owner", Some(12.0)),
            ("forwarded, 1 M claims", CALLS / 2, CALLS / 2, "forwarded", Some(16.0)),
            ("unknown, 1 M claims", UNKNOWN, CALLS, unknown, None),
        ];
        for (what, first, count, outcome, limit) in ways {
            let name = format!("{name}, {what}, random keys, varied text");
            let mut row = Row::new(name, Which::Four, "forwarder_ingress", &frame).outcome(outcome);
            row.feeding = Some(varying(frame.len(), first, count, &texts));
            row.limit = limit.filter(|_| length < 1300);
            rows.push(row);
        }
    }
}

fn decapsulation(rows: &mut Vec<Row>) {
    for v6 in [false, true] {
        let (frame, _) = sip(v6, false, &Message::plain(Kind::Invite, 550));
        let which = if v6 { Which::Six } else { Which::Four };
        let name = format!("decapsulation, INVITE 550, {}", ip(v6));
        let frame = tunnelled(v6, &frame);
        let row = Row::new(name, which, "forwarder_ingress", &frame.bytes).outcome("decapsulated");
        rows.push(row.limit(6.0).undone(128));
    }
}

fn egress(rows: &mut Vec<Row>) {
    for v6 in [false, true] {
        let frame = datagram(v6, true, 20_000, &[0x80; 172]);
        let name = format!("egress, RTP, {}", ip(v6));
        rows.push(Row::new(name, Which::Four, "forwarder_egress", &frame.bytes).outcome("egress_other").limit(1.5));
        let frame = datagram(v6, true, 5060, &[0x80; 172]);
        let name = format!("egress, from the service's port, no SIP, {}", ip(v6));
        rows.push(Row::new(name, Which::Four, "forwarder_egress", &frame.bytes).outcome("egress_other").limit(1.5));
    }
    let text =
        datagram(false, true, 20_000, b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\nno SIP, but it begins like it");
    let row = Row::new("egress, text that is no SIP, IPv4", Which::Four, "forwarder_egress", &text.bytes);
    rows.push(row.outcome("egress_other"));
    for (name, kind, length) in MESSAGES {
        let message = sip(false, true, &Message::plain(kind, length));
        let name = |what: &str| format!("egress, {name}, {what}");
        let frame = with_letters(message.clone(), HOT[0]);
        rows.push(Row::new(name("already claimed"), Which::Four, "forwarder_egress", &frame).outcome("egress_owner"));
        let mut row = Row::new(name("new claim"), Which::Fresh, "forwarder_egress", &frame).outcome("egress_claimed");
        row.repeat = 40_000;
        let feed = Feed { first: NEW, count: 1, order: 1, patch_at: message.1 as u32, ..Feed::default() };
        row.feeding = Some(Feeding { feed, texts: Vec::new() });
        rows.push(row);
    }
}

/// The flow of the balancer's hot row.
pub(crate) fn flow(frame: &[u8]) -> Flow {
    let word = |at: usize| {
        let bytes = frame.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
        u32::from_le_bytes(bytes)
    };
    Flow([word(26), word(30), word(34), 17])
}

/// Flows of the balancer.
pub(crate) const FLOWS: u32 = 1 << 20;

fn balancer(rows: &mut Vec<Row>) {
    let (frame, _) = sip(false, false, &Message::plain(Kind::Invite, 550));
    let name = "layer-4 balancer (LRU hash, IP-in-IP), one flow";
    rows.push(Row::new(name, Which::Yardstick, "balancer", &frame.bytes).undone(16));
    let mut row = Row::new("layer-4 balancer, 1 M flows", Which::Yardstick, "balancer", &frame.bytes).undone(16);
    if let Some(feeding) = &mut row.feeding {
        feeding.feed = Feed { patch_at: 26, patch: RAW, count: FLOWS, order: RANDOM, ..feeding.feed };
    }
    rows.push(row);
}

/// Loads at which tables are compared, in percent of their slots.
const LOADS: [u8; 3] = [25, 50, 90];

fn tables(rows: &mut Vec<Row>) {
    let empty = datagram(false, false, 5060, &[0; 22]).bytes;
    for percent in LOADS {
        let which = Which::Tables(percent);
        let kinds = [("hot hit", 0, 64), ("random hit", 0, which.filled()), ("random miss", 1 << 28, 1 << 28)];
        for (what, first, count) in kinds {
            for (program, table) in
                [("table_find", "claim table"), ("lru_find", "LRU hash"), ("hash_find", "hash"), ("key_alone", "key")]
            {
                let name = match program {
                    "key_alone" => format!("{what}, {percent} %: the key alone"),
                    _ => format!("{what}, {percent} % full: {table}"),
                };
                let mut row = Row::new(name, which, program, &empty);
                let feed = Feed { first, count, patch: LETTERS, ..Feed::default() };
                row.feeding = Some(Feeding { feed, texts: Vec::new() });
                rows.push(row);
            }
        }
    }
    // In tables of its own: the others' keys must stay.
    let mut row = Row::new("insertion that evicts: LRU hash", Which::Tables(99), "lru_insert", &empty);
    row.feeding =
        Some(Feeding { feed: Feed { first: 1 << 29, order: 1, count: 1, ..Feed::default() }, texts: Vec::new() });
    row.repeat = 20_000;
    rows.push(row);
}

/// The finished program with either table.
fn stores(rows: &mut Vec<Row>) {
    let texts = texts(Kind::Invite, 550);
    let plain = sip(false, false, &Message::plain(Kind::Invite, 550));
    for percent in LOADS {
        for (which, store) in [(Which::Filled(percent), "claim table"), (Which::Lru(percent), "LRU hash")] {
            let name = |what: &str| format!("finished program, {store} {percent} % full: {what}");
            for (what, index, outcome) in [("hot hit", HOT[0], "local_owner"), ("hot miss", UNKNOWN, "local_new")] {
                let frame = with_letters(plain.clone(), index);
                rows.push(Row::new(name(what), which, "forwarder_ingress", &frame).outcome(outcome));
            }
            let draws =
                [("random hit", 0, which.filled(), "local_owner"), ("random miss", UNKNOWN, CALLS, "local_new")];
            for (what, first, count, outcome) in draws {
                let Some((frame, _)) = texts.first() else { continue };
                let mut row = Row::new(name(what), which, "forwarder_ingress", frame).outcome(outcome);
                row.feeding = Some(varying(frame.len(), first, count, &texts));
                rows.push(row);
            }
        }
    }
}

/// Another text and another key, drawn from so many, each time.
pub(crate) fn varying(length: usize, first: u32, count: u32, texts: &[(Vec<u8>, usize)]) -> Feeding {
    let length = length as u32;
    let feed = Feed { length, restore: length, first, count, templates: TEXTS - 1, patch_at: 1, ..Feed::default() };
    Feeding { feed, texts: texts.to_vec() }
}

/// Fills the claims of a forwarder: those of both nodes' calls.
pub(crate) fn claim_all(forwarder: &mut Forwarder) -> Result<()> {
    let messages: Vec<_> = (0..TEXTS).map(|seed| Message::varied(Kind::Invite, 550, seed)).collect();
    for (index, message) in (0..CALLS).zip(messages.iter().cycle()) {
        let owner = if index < CALLS / 2 { ME } else { PEER };
        let (request, reply) = message.keys(index);
        forwarder.claims.claim(request, owner)?;
        forwarder.claims.claim(reply, owner)?;
    }
    let message = Message::plain(Kind::Invite, 550);
    for (index, owner) in HOT.into_iter().zip([ME, PEER]) {
        let (request, reply) = message.keys(index);
        forwarder.claims.claim(request, owner)?;
        forwarder.claims.claim(reply, owner)?;
    }
    Ok(())
}

/// Fills them with so many requests of this node's, and the hot one.
pub(crate) fn claim_requests(forwarder: &mut Forwarder, count: u32) -> Result<()> {
    let messages: Vec<_> = (0..TEXTS).map(|seed| Message::varied(Kind::Invite, 550, seed)).collect();
    for (index, message) in (0..count).zip(messages.iter().cycle()) {
        forwarder.claims.claim(message.keys(index).0, ME)?;
    }
    forwarder.claims.claim(Message::plain(Kind::Invite, 550).keys(HOT[0]).0, ME)
}

/// Fills the balancer's flows.
pub(crate) fn add_flows(yardstick: &mut Yardstick) -> Result<()> {
    let (frame, _) = sip(false, false, &Message::plain(Kind::Invite, 550));
    let flow = flow(&frame.bytes);
    yardstick.add_flows(flow, (0..FLOWS).chain([flow.0[0]]))
}
