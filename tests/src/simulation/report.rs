//! What a simulation has shown, as numbers and as the table that `cargo xtask simulate` prints.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::time::Duration;

use forwarder_core::{ages::AgeSummary, node::CoreCounters};

use super::{
    cause::Cause,
    counts::{Fates, Noted, Phase, Traffic},
    reference::Agreement,
    scenario::Scenario,
    traffic::Class,
    world::World,
};

/// Resident memory of this process in bytes: before the hosts are made, when they are linked, at the end of the
/// traffic.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Before.
    pub before: u64,
    /// Linked, without a claim.
    pub idle: u64,
    /// At the end of the traffic.
    pub loaded: u64,
}

/// What a simulation has shown.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was played.
    pub scenario: Scenario,
    /// What became of the messages in each phase.
    pub phases: Vec<Phase>,
    /// What the failover machines have noted.
    pub noted: Noted,
    /// Transactions begun.
    pub transactions: u64,
    /// Of these, such with a message that was lost or met the wrong node.
    pub harmed: u64,
    /// Messages that were sent again because they came to nothing.
    pub repeated: u64,
    /// How long held messages waited in microseconds.
    pub waits: AgeSummary,
    /// How much later than they landed forwarded messages reached their owner.
    pub forwards: AgeSummary,
    /// How old claims were when they reached a peer, at the node where that is worst.
    pub ages: AgeSummary,
    /// Between daemons, from the first transaction to the last.
    pub traffic: Vec<Traffic>,
    /// Bytes sent by a node in that time: mean and most.
    pub sent_bytes: [u64; 2],
    /// Bytes sent to a node in that time: mean and most.
    pub received_bytes: [u64; 2],
    /// Claims that the egress programs handed over, and copies of claims that went to peers, over all nodes that still
    /// run.
    pub core: CoreCounters,
    /// Claims that a node held at the end of the traffic: mean and most.
    pub claims: [usize; 2],
    /// Bytes of one node's claim table in the kernel.
    pub table_bytes: usize,
    /// Claims that gave way in a full table.
    pub evicted: u64,
    /// Memory of the process.
    pub memory: Memory,
    /// Links that came up and went down in all.
    pub links: [u64; 2],
    /// Pairs of running nodes without a link at the end.
    pub unlinked: usize,
    /// Messages that broke the protocol, which none may.
    pub protocol_errors: Vec<String>,
    /// The comparison of all nodes with the reference.
    pub agreement: Agreement,
    /// Hash of everything that happened: the same for the same seed.
    pub trace: u64,
    /// Messages that cores took.
    pub delivered: u64,
    /// Mean processor time of a turn of a daemon (a message or timer, with all that follows), in nanoseconds.
    pub turn_ns: u64,
    /// How long the simulation took.
    pub elapsed: Duration,
}

impl Report {
    /// What is to be seen while the claims of the traffic last.
    pub(super) fn after_traffic(world: &World, memory: Memory) -> Self {
        let nodes = || world.hosts.iter().filter_map(|host| host.daemon.as_ref());
        let claims: Vec<usize> = nodes().map(|daemon| daemon.node.claims()).collect();
        let ages = nodes().map(|daemon| daemon.node.ages()).max_by_key(|ages| ages.p99_us);
        let counts = &world.counts;
        Self {
            scenario: world.scenario.clone(),
            phases: Vec::new(),
            noted: Noted::default(),
            transactions: 0,
            harmed: 0,
            repeated: 0,
            waits: AgeSummary::default(),
            forwards: AgeSummary::default(),
            ages: ages.unwrap_or_default(),
            traffic: counts.traffic(),
            sent_bytes: mean_and_most(&counts.sent_bytes),
            received_bytes: mean_and_most(&counts.received_bytes),
            core: nodes().fold(CoreCounters::default(), |sum, daemon| add(sum, daemon.node.counters())),
            claims: [claims.iter().sum::<usize>() / claims.len().max(1), claims.iter().copied().max().unwrap_or(0)],
            table_bytes: world.hosts.first().map_or(0, |host| host.kernel.table_bytes()),
            evicted: 0,
            memory,
            links: [0; 2],
            unlinked: 0,
            protocol_errors: Vec::new(),
            agreement: Agreement::default(),
            trace: 0,
            delivered: 0,
            turn_ns: 0,
            elapsed: Duration::ZERO,
        }
    }

    /// What is to be seen when all has come to rest.
    pub(super) fn finish(&mut self, world: &World, harmed: u64, unlinked: usize, turn_ns: u64, elapsed: Duration) {
        let counts = &world.counts;
        self.phases.clone_from(&counts.phases);
        self.noted = counts.noted;
        self.transactions = counts.transactions;
        self.harmed = harmed;
        self.repeated = counts.repeated;
        (self.waits, self.forwards) = (counts.waits.summary(), counts.forwards.summary());
        self.evicted = world.hosts.iter().map(|host| host.kernel.evicted).sum();
        self.links = [counts.links_up, counts.links_down];
        self.unlinked = unlinked;
        self.protocol_errors.clone_from(&counts.protocol_errors);
        self.agreement = world.reference.compare(&world.hosts, world.now_us);
        (self.trace, self.delivered) = (world.trace, counts.delivered);
        self.turn_ns = turn_ns;
        self.elapsed = elapsed;
    }

    /// Whether all nodes agree with the reference, and none broke the protocol.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.agreement.holds() && self.protocol_errors.is_empty()
    }

    /// The sum of all classes in a phase; all phases without a name.
    #[must_use]
    pub fn fates(&self, phase: Option<&str>) -> Fates {
        self.phases_of(phase).flat_map(|phase| phase.fates).fold(Fates::default(), Fates::plus)
    }

    /// How many messages met a wrong node for a cause in a phase; in all phases without a name.
    #[must_use]
    pub fn wrong(&self, phase: Option<&str>, cause: Cause) -> u64 {
        self.phases_of(phase).map(|phase| phase.causes[cause as usize]).sum()
    }

    /// Hosts to which routes led in a phase: the fewest at any moment, and those at its end.
    #[must_use]
    pub fn routed(&self, phase: &str) -> Option<(usize, usize)> {
        self.phases_of(Some(phase)).find_map(|phase| phase.routed)
    }

    fn phases_of(&self, wanted: Option<&str>) -> impl Iterator<Item = &Phase> {
        self.phases.iter().filter(move |phase| wanted.is_none_or(|wanted| wanted == phase.name))
    }

    fn classes(&self) -> impl Iterator<Item = (&'static str, Fates)> {
        Class::ALL.into_iter().map(|class| {
            let all = self.phases.iter().map(|phase| phase.fates[class as usize]);
            (class.name(), all.fold(Fates::default(), Fates::plus))
        })
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_fates(f)?;
        self.write_causes(f)?;
        let percent = self.harmed as f64 * 100.0 / self.transactions.max(1) as f64;
        writeln!(
            f,
            "\ntransactions      {}, of which {} ({percent:.3} %) had a message lost or at a wrong node",
            self.transactions, self.harmed
        )?;
        writeln!(f, "held messages     waited {}", age(&self.waits))?;
        writeln!(f, "forwarded ones    took {}", age(&self.forwards))?;
        writeln!(f, "claims to peers   took {} at the node where p99 is worst", age(&self.ages))?;
        self.write_costs(f)?;
        self.write_agreement(f)?;
        for error in self.protocol_errors.iter().take(5) {
            writeln!(f, "PROTOCOL ERROR    {error}")?;
        }
        writeln!(
            f,
            "trace             {:016x}, {:.1} s for {} messages between daemons",
            self.trace,
            self.elapsed.as_secs_f64(),
            self.delivered
        )
    }
}

impl Report {
    /// What became of the messages, by class and by phase.
    fn write_fates(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Scenario { name, nodes, rate, elsewhere_percent, loss, hold_ms, seed, traffic_s, .. } = &self.scenario;
        writeln!(
            f,
            "{name}: {nodes} nodes, {rate} transactions/s, {traffic_s} s, {elsewhere_percent} % of packets elsewhere,"
        )?;
        writeln!(f, "{:.1} % loss between daemons, hold {hold_ms} ms, seed {seed}\n", loss * 100.0)?;
        writeln!(
            f,
            "{:<18}{:>10}{:>11}{:>9}{:>9}{:>9}{:>10}{:>11}{:>8}",
            "messages", "landed", "forwarded", "held", "relayed", "wrong", "wrong %", "ownerless", "lost"
        )?;
        for (name, fates) in self.classes() {
            row(f, name, fates)?;
        }
        if self.phases.len() > 1 {
            for Phase { name, fates, .. } in &self.phases {
                row(f, &format!("phase: {name}"), fates.iter().copied().fold(Fates::default(), Fates::plus))?;
            }
        }
        row(f, "all", self.fates(None))?;
        Ok(())
    }

    /// Why messages met a wrong node, in each phase.
    fn write_causes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.fates(None).wrong == 0 {
            return Ok(());
        }
        write!(f, "\n{:<42}", "at a wrong node because")?;
        self.phases.iter().try_for_each(|phase| write!(f, "{:>12}", phase.name))?;
        writeln!(f)?;
        for cause in Cause::ALL.into_iter().filter(|cause| self.wrong(None, *cause) > 0) {
            write!(f, "{:<42}", cause.name())?;
            self.phases.iter().try_for_each(|phase| write!(f, "{:>12}", phase.causes[cause as usize]))?;
            writeln!(f)?;
        }
        Ok(())
    }

    fn write_agreement(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "agreement         {}",
            if self.agreement.holds() { "all nodes agree with the reference" } else { "BROKEN" }
        )?;
        let Agreement {
            keys,
            contested,
            overtaken,
            forgotten,
            missing,
            wrong,
            kernel_differs,
            ineffective_believed,
            outlive,
            not_shortened,
            cut_short,
            split,
            examples,
        } = &self.agreement;
        writeln!(
            f,
            "                  {keys} live claims, {contested} contested, {overtaken} overtaken, {forgotten} forgotten;"
        )?;
        writeln!(
            f,
            "                  missing {missing}, wrong {wrong}, kernel differs {kernel_differs}, \
             ineffective believed {ineffective_believed}, split {split},"
        )?;
        writeln!(
            f,
            "                  longer than said {outlive}, not shortened {not_shortened}, cut short {cut_short}"
        )?;
        examples.iter().try_for_each(|example| writeln!(f, "DISAGREEMENT      {example}"))
    }

    fn write_costs(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (nodes, seconds) = (self.scenario.nodes as u64, self.scenario.traffic_s.max(1));
        writeln!(f, "between daemons   per node and second, without QUIC's own bytes:")?;
        for Traffic { kind, messages, bytes } in &self.traffic {
            let name = kind.map_or("Datagram".to_owned(), |kind| format!("{kind:?}"));
            let (each, share) = (messages / (nodes * seconds), bytes / (nodes * seconds));
            writeln!(f, "  {name:<16}{each:>10} messages{share:>12} bytes{:>8} bytes each", bytes / messages.max(&1))?;
        }
        let [sent, received] = [self.sent_bytes, self.received_bytes].map(|bytes| bytes.map(|bytes| bytes / seconds));
        writeln!(
            f,
            "  sent            {:>10} bytes/s, {} at most; received {} bytes/s, {} at most",
            sent[0], sent[1], received[0], received[1]
        )?;
        let CoreCounters { claims_local, claims_sent, claims_dropped, claims_evicted, batches_sent, .. } = self.core;
        writeln!(
            f,
            "claims            {claims_local} made, {claims_sent} copies sent ({batches_sent} batches), \
             {claims_dropped} dropped, {claims_evicted} evicted"
        )?;
        writeln!(
            f,
            "held by a node    {} claims, {} at most; kernel table {} MB, {} live ones gave way",
            self.claims[0],
            self.claims[1],
            self.table_bytes >> 20,
            self.evicted
        )?;
        let Memory { before, idle, loaded } = self.memory;
        let each = |bytes: u64| bytes / nodes.max(1) / 1024;
        writeln!(
            f,
            "memory            {} kB a node without claims, {} kB with them, kernel table included",
            each(idle.saturating_sub(before)),
            each(loaded.saturating_sub(before))
        )?;
        writeln!(
            f,
            "links             {} came up, {} went down, {} pairs unlinked at the end",
            self.links[0], self.links[1], self.unlinked
        )?;
        writeln!(f, "failover          {}", self.noted)?;
        writeln!(f, "processor         {} ns a turn of a daemon", self.turn_ns)
    }
}

fn row(f: &mut Formatter<'_>, name: &str, fates: Fates) -> fmt::Result {
    let Fates { landed, forwarded, held, relayed, wrong, ownerless, lost } = fates;
    let percent = wrong as f64 * 100.0 / landed.max(1) as f64;
    write!(f, "{name:<18}{landed:>10}{forwarded:>11}{held:>9}{relayed:>9}{wrong:>9}{percent:>10.4}")?;
    writeln!(f, "{ownerless:>11}{lost:>8}")
}

fn age(ages: &AgeSummary) -> String {
    let ms = |us: u64| us as f64 / 1000.0;
    format!(
        "p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms ({})",
        ms(ages.p50_us),
        ms(ages.p99_us),
        ms(ages.max_us),
        ages.count
    )
}

fn mean_and_most(values: &[u64]) -> [u64; 2] {
    [values.iter().sum::<u64>() / values.len().max(1) as u64, values.iter().copied().max().unwrap_or(0)]
}

/// The counters that the report names.
const fn add(sum: CoreCounters, one: CoreCounters) -> CoreCounters {
    CoreCounters {
        claims_local: sum.claims_local + one.claims_local,
        claims_sent: sum.claims_sent + one.claims_sent,
        claims_received: sum.claims_received + one.claims_received,
        claims_dropped: sum.claims_dropped + one.claims_dropped,
        claims_evicted: sum.claims_evicted + one.claims_evicted,
        batches_sent: sum.batches_sent + one.batches_sent,
        conflicts_lost: sum.conflicts_lost + one.conflicts_lost,
        conflicts_won: sum.conflicts_won + one.conflicts_won,
        ..sum
    }
}

/// Resident memory of this process in bytes; 0 where the system does not say.
pub(super) fn resident_bytes() -> u64 {
    const PAGE: u64 = 4096;
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |pages| pages * PAGE)
}
