//! What happens to the cluster, and when.

mod chaos;

use super::{fault::Fault, network::REGIONS};

/// One simulation.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// Hosts, in equal shares over the five regions.
    pub nodes: usize,
    /// Hosts that all others call when they start.
    pub seeds: usize,
    /// Transactions a second in all.
    pub rate: u64,
    /// Percent of the packets that land at another node than the transaction's home.
    pub elsewhere_percent: u32,
    /// Part of the packets between daemons that the network loses.
    pub loss: f64,
    /// How long an unknown reply, CANCEL or ACK is held, in milliseconds.
    pub hold_ms: u64,
    /// SIP's T1 in milliseconds.
    pub t1_ms: u64,
    /// SIP's Timer C in milliseconds.
    pub timer_c_ms: u64,
    /// Hosts' clocks are up to an hour from the true time.
    pub clocks: bool,
    /// Chance of everything.
    pub seed: u64,
    /// Seconds before the first transaction, in which the nodes find each other.
    pub warm_s: u64,
    /// Seconds of traffic.
    pub traffic_s: u64,
    /// Seconds after it, before all nodes are compared.
    pub settle_s: u64,
    /// Hosts that start only when a fault boots them.
    pub later: Vec<usize>,
    /// What happens when, in seconds from the first transaction on.
    pub faults: Vec<(f64, Fault)>,
}

/// Hosts that all others know from their configuration.
const SEEDS: usize = 3;

/// Names of the scenarios, with what they are.
pub const NAMES: [(&str, &str); 12] = [
    ("steady", "nothing happens"),
    ("partition", "a region is cut off for a third of the time"),
    ("crash", "hosts lose their power and come back"),
    ("rolling", "hosts are drained and restarted one after another"),
    ("flapping", "hosts are cut off for moments again and again, daemons are killed and come back"),
    ("stalls", "daemons are stopped for moments and for seconds, and go on"),
    ("silence", "a flood silences all proxies for 20 s, and some daemons and hosts meanwhile"),
    ("hostile", "a host with a good certificate says whatever its peers must take, for 20 s, and is gone"),
    ("chaos", "stalls, kills, stops, drains, proxies that end, crashes, cuts and flaps by chance for 50 s"),
    ("joining", "half of the hosts come later, some leave"),
    ("clocks", "hosts' clocks are up to an hour wrong, and a region is cut off"),
    ("headline", "300 nodes, 5 % elsewhere, 1 % loss, a region cut off for 30 s"),
];

impl Scenario {
    /// The scenario of this name with so many nodes.
    #[must_use]
    pub fn named(name: &str, nodes: usize, seed: u64) -> Option<Self> {
        let (name, _) = NAMES.iter().find(|known| known.0 == name)?;
        let mut scenario = Self::steady(name, nodes, seed);
        match *name {
            "partition" => scenario.partition(10.0, 20.0),
            "crash" => scenario.crash(),
            "rolling" => scenario.rolling(),
            "flapping" => scenario.flapping(),
            "joining" => scenario.joining(),
            "stalls" => scenario.stalls(),
            "silence" => scenario.silence(),
            "hostile" => scenario.hostile(),
            "chaos" => {
                // A claim's question and its answer between the farthest regions.
                (scenario.hold_ms, scenario.traffic_s) = (300, chaos::TRAFFIC_S);
                scenario.faults = chaos::faults(nodes, seed);
            }
            "clocks" => {
                scenario.clocks = true;
                scenario.partition(10.0, 20.0);
            }
            "headline" => {
                (scenario.traffic_s, scenario.hold_ms) = (90, 100);
                scenario.partition(30.0, 60.0);
            }
            _ => {}
        }
        Some(scenario)
    }

    fn steady(name: &'static str, nodes: usize, seed: u64) -> Self {
        Self {
            name,
            nodes,
            seeds: nodes.min(SEEDS),
            rate: 10 * nodes as u64 / 3,
            elsewhere_percent: 5,
            loss: 0.01,
            hold_ms: 100,
            t1_ms: 500,
            timer_c_ms: 180_000,
            clocks: false,
            seed,
            warm_s: 15,
            traffic_s: 30,
            settle_s: 25,
            later: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// The last region is cut off.
    fn partition(&mut self, from_s: f64, to_s: f64) {
        let region = REGIONS.len() - 1;
        self.faults = vec![
            (0.0, Fault::Phase("before")),
            (from_s, Fault::Phase("cut")),
            (from_s, Fault::CutRegion(region)),
            (to_s, Fault::HealRegion(region)),
            // Links come back within the longest pause between two calls.
            (to_s, Fault::Phase("healing")),
            (to_s + 8.0, Fault::Phase("after")),
        ];
    }

    /// One host of ten.
    fn crash(&mut self) {
        self.faults = vec![
            (0.0, Fault::Phase("before")),
            (10.0, Fault::Phase("first 1.5 s")),
            (11.5, Fault::Phase("down")),
            (20.0, Fault::Phase("back")),
        ];
        for host in (0..self.nodes).step_by(10) {
            self.faults.push((10.0, Fault::Crash(host)));
            self.faults.push((20.0, Fault::Boot(host)));
        }
    }

    /// A quarter of the hosts, at most eight; short timers, so that a drain takes seconds.
    fn rolling(&mut self) {
        (self.t1_ms, self.timer_c_ms) = (60, 20_000);
        // All calls are answered by then, and some are claimed yet.
        self.settle_s = 13;
        let count = self.nodes.div_ceil(4).min(8);
        for turn in 0..count {
            let (host, at_s) = (turn * self.nodes / count, turn as f64 * 45.0);
            self.faults.push((at_s, Fault::Drain(host)));
            self.faults.push((at_s + 35.0, Fault::StopDaemon(host)));
            self.faults.push((at_s + 35.4, Fault::RestartProxy(host)));
            self.faults.push((at_s + 35.7, Fault::StartDaemon(host)));
            self.faults.push((at_s + 42.0, Fault::Undrain(host)));
        }
        self.traffic_s = count as u64 * 45;
    }

    /// Cuts shorter and longer than a link's timeout; daemons killed for as long; proxies that restart.
    fn flapping(&mut self) {
        for turn in 0..8_usize {
            let (at_s, host) = (2.0 + turn as f64 * 3.0, turn * 7 % self.nodes);
            self.faults.push((at_s, Fault::CutHost(host)));
            self.faults.push((at_s + 0.4 + turn as f64 * 0.3, Fault::HealHost(host)));
            let other = (host + 1) % self.nodes;
            let ends = if turn % 2 == 0 { Fault::KillDaemon(other) } else { Fault::StopDaemon(other) };
            self.faults.push((at_s + 0.5, ends));
            self.faults.push((at_s + 1.0 + turn as f64 * 0.4, Fault::StartDaemon(other)));
            self.faults.push((at_s + 0.7, Fault::RestartProxy((host + 2) % self.nodes)));
        }
    }

    /// Daemons that are stopped for less than a link's timeout, for more, for more than the lease, and for longer than
    /// peers wait.
    fn stalls(&mut self) {
        self.traffic_s = 60;
        self.faults = vec![(0.0, Fault::Phase("before")), (5.0, Fault::Phase("short"))];
        let mut turn = 0;
        let mut stall = |faults: &mut Vec<_>, at_s: f64, ms| {
            faults.push((at_s, Fault::Stall(turn * 7 % self.nodes, ms)));
            turn += 1;
        };
        for step in 0..6 {
            stall(&mut self.faults, 5.0 + f64::from(step), 600);
        }
        self.faults.push((12.0, Fault::Phase("medium")));
        for step in 0..3 {
            stall(&mut self.faults, 12.0 + f64::from(step) * 3.0, 1_300);
        }
        self.faults.push((21.0, Fault::Phase("long")));
        stall(&mut self.faults, 21.0, 4_000);
        stall(&mut self.faults, 28.0, 15_000);
        self.faults.push((51.0, Fault::Phase("after")));
    }

    /// All proxies fall silent within three seconds, the last host's first. Then those that are kept up are lost one
    /// after the other: by a drain, by the end of the proxy, of the host. In the end all answer again.
    fn silence(&mut self) {
        self.traffic_s = 60;
        self.faults = vec![(0.0, Fault::Phase("before")), (5.0, Fault::Phase("silent"))];
        for host in 0..self.nodes {
            let at_s = 5.0 + 3.0 * (self.nodes - host) as f64 / self.nodes as f64;
            self.faults.push((at_s, Fault::SilenceProxy(host)));
            self.faults.push((35.0, Fault::WakeProxy(host)));
        }
        self.faults.extend([(16.0, Fault::Phase("drained")), (16.0, Fault::Drain(0))]);
        self.faults.extend([(21.0, Fault::Phase("stopped")), (21.0, Fault::StopProxy(1))]);
        self.faults.extend([(26.0, Fault::Phase("crashed")), (26.0, Fault::Crash(2))]);
        self.faults.extend([(35.0, Fault::Phase("back")), (35.0, Fault::Undrain(0))]);
        self.faults.extend([(35.0, Fault::StartProxy(1)), (35.0, Fault::Boot(2))]);
        self.faults.push((45.0, Fault::Phase("after")));
    }

    /// The last host, which serves nothing, means harm for 20 s, and is gone after that. It begins when the others have
    /// run for more than a minute: until then they give up epochs that a peer says it knows.
    fn hostile(&mut self) {
        self.traffic_s = 110;
        let host = self.nodes - 1;
        self.faults = vec![
            (0.0, Fault::StopProxy(host)),
            (50.0, Fault::Phase("before")),
            (65.0, Fault::Phase("hostile")),
            (65.0, Fault::TurnHostile(host)),
            (85.0, Fault::EndHostile(host)),
            (95.0, Fault::Phase("after")),
        ];
    }

    fn joining(&mut self) {
        self.later = (0..self.nodes).filter(|host| host % 2 == 1).collect();
        let later = self.later.len();
        for (turn, host) in self.later.iter().enumerate() {
            self.faults.push((2.0 + 10.0 * turn as f64 / later as f64, Fault::Boot(*host)));
        }
        for turn in 0..(self.nodes / 8).max(1) {
            let host = turn * 8 % self.nodes + 2;
            self.faults.push((15.0 + turn as f64 * 0.2, Fault::Drain(host)));
            self.faults.push((18.0 + turn as f64 * 0.2, Fault::StopDaemon(host)));
            self.faults.push((18.5 + turn as f64 * 0.2, Fault::Crash(host)));
        }
    }
}
