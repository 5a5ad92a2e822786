//! Whether a service's proxy lives: from its answers to probes, and from the sockets bound to the service's address.
//!
//! An answer is proof of life, but a slow one is no proof of death: only silence in a row is. A socket that is gone is
//! proof of death at once, and other sockets than before are proof of a death between two looks. Nothing else ends a
//! run: an error of the network, such as an ICMP message, is no evidence.

use std::{collections::BTreeSet, fmt};

use super::timers::UNSEEN_US;

/// Something that was seen of a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It has answered a probe.
    Answered {
        /// When that was sent, in microseconds of the monotonic clock.
        sent_us: u64,
    },
    /// It has not answered a probe in time.
    Silent,
    /// A probe could not be sent, and why.
    Failed(String),
    /// The inodes of all sockets that take the service's packets now.
    Sockets(BTreeSet<u64>),
}

/// How a proxy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is not probed, and counts as alive.
    Trusted,
    /// Nothing is known yet.
    Unknown,
    /// It answers.
    Alive,
    /// It does not.
    Down(Reason),
}

impl Health {
    /// Its name in `status`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Trusted => "unprobed",
            Self::Unknown => "unknown",
            Self::Alive => "alive",
            Self::Down(_) => "down",
        }
    }
}

/// Why a proxy counts as down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// So many probes in a row without an answer.
    Silent(u32),
    /// Probes cannot be sent.
    Failed(String),
    /// No socket takes the service's packets.
    NoSocket,
    /// There is a socket again, and nobody has answered on it yet.
    Starting,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(1) => write!(f, "1 probe was not answered"),
            Self::Silent(count) => write!(f, "{count} probes in a row were not answered"),
            Self::Failed(why) => write!(f, "it cannot be probed: {why}"),
            Self::NoSocket => write!(f, "no socket is bound to its address"),
            Self::Starting => write!(f, "its new socket has not answered yet"),
        }
    }
}

/// What is known of one proxy.
#[derive(Debug)]
pub struct Proxy {
    /// Silence in a row that is death, and answers in a row that end it; `None`: not probed.
    failures: Option<u32>,
    health: Health,
    silent: u32,
    answered: u32,
    /// The sockets when there were some last.
    inodes: BTreeSet<u64>,
    /// The last look found none, first at this time.
    gone_us: Option<u64>,
    /// The first probe since then that was answered all the same was sent at this time.
    unseen_us: Option<u64>,
    /// It may have spoken since the last end of a run was told.
    has_spoken: bool,
    /// The end of the run that had `inodes` was told.
    is_told: bool,
}

impl Proxy {
    /// A proxy that is probed, with so many failures in a row allowed less one, or not; `inodes` are its sockets as
    /// last known.
    pub const fn new(failures: Option<u32>, inodes: BTreeSet<u64>) -> Self {
        let health = if failures.is_some() { Health::Unknown } else { Health::Trusted };
        Self {
            failures,
            health,
            silent: 0,
            answered: 0,
            inodes,
            gone_us: None,
            unseen_us: None,
            has_spoken: true,
            is_told: false,
        }
    }

    /// Takes something that was seen; whether a run of the proxy has ended by it.
    pub(super) fn handle(&mut self, evidence: &Evidence, now_us: u64) -> bool {
        let Some(failures) = self.failures else { return false };
        match evidence {
            Evidence::Answered { sent_us } => {
                // Of a proxy that died since, an answer may still have been on its way.
                if self.gone_us.is_none_or(|gone_us| *sent_us >= gone_us) {
                    self.answer(failures);
                    self.answer_unseen(*sent_us);
                }
                false
            }
            Evidence::Silent => {
                self.miss(failures, None);
                false
            }
            Evidence::Failed(why) => {
                self.miss(failures, Some(why));
                false
            }
            Evidence::Sockets(inodes) if inodes.is_empty() => {
                if self.gone_us.is_some() {
                    return false;
                }
                (self.gone_us, self.answered, self.health) = (Some(now_us), 0, Health::Down(Reason::NoSocket));
                self.unseen_us = None;
                self.end()
            }
            Evidence::Sockets(inodes) => self.look(inodes),
        }
    }

    /// How it is.
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Why it is down, if it is.
    pub const fn reason(&self) -> Option<&Reason> {
        if let Health::Down(reason) = &self.health { Some(reason) } else { None }
    }

    /// Whether it does not answer, or cannot be asked, though nothing says that it has stopped: its socket is there, as
    /// far as that can be seen. A flood can do that.
    pub const fn is_silent(&self) -> bool {
        matches!(self.health, Health::Down(Reason::Silent(_) | Reason::Failed(_) | Reason::Starting))
    }

    /// Whether new transactions can be left to it.
    pub const fn is_alive(&self) -> bool {
        matches!(self.health, Health::Trusted | Health::Alive)
    }

    fn answer(&mut self, failures: u32) {
        (self.silent, self.has_spoken) = (0, true);
        self.answered = self.answered.saturating_add(1);
        // One that answers now and then must not come and go with each answer; a new one is there with its first.
        let is_back = match self.health {
            Health::Down(Reason::Silent(_)) => self.answered >= failures,
            Health::Trusted | Health::Unknown | Health::Alive | Health::Down(_) => true,
        };
        if is_back {
            self.health = Health::Alive;
        }
    }

    /// One that answers without a socket has one that the next look will see, or that none will ever see.
    fn answer_unseen(&mut self, sent_us: u64) {
        if self.gone_us.is_some() {
            let first_us = *self.unseen_us.get_or_insert(sent_us);
            if sent_us >= first_us.saturating_add(UNSEEN_US) {
                self.is_told = false;
            }
        }
    }

    fn miss(&mut self, failures: u32, why: Option<&String>) {
        self.answered = 0;
        self.silent = self.silent.saturating_add(1);
        let is_proven = matches!(self.health, Health::Down(Reason::NoSocket));
        if self.silent >= failures && !is_proven {
            self.health = Health::Down(why.map_or(Reason::Silent(self.silent), |why| Reason::Failed(why.clone())));
        }
    }

    /// A run has ended; whether that is news, and matters to anybody.
    const fn end(&mut self) -> bool {
        let is_news = self.has_spoken && !self.is_told;
        self.is_told = true;
        if is_news {
            self.has_spoken = false;
        }
        is_news
    }

    fn look(&mut self, inodes: &BTreeSet<u64>) -> bool {
        self.gone_us = None;
        if self.health == Health::Down(Reason::NoSocket) {
            (self.health, self.silent) = (Health::Down(Reason::Starting), 0);
        }
        let is_other = self.inodes.is_disjoint(inodes);
        let is_first = self.inodes.is_empty();
        self.inodes.clone_from(inodes);
        if !is_other {
            return false;
        }
        // Its health follows from its answers: a restart between two looks may well be quicker than the next probe.
        self.silent = 0;
        let is_news = !is_first && self.end();
        self.is_told = false;
        is_news
    }
}
