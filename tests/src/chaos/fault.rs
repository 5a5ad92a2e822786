//! The faults of a soak, each of which is a word and numbers in a schedule's text.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

/// What is done to one edge, or to the network between all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// Its daemon is killed, and started at the fault's end.
    KillDaemon(u8),
    /// Its daemon ends in order, and is started at the fault's end.
    StopDaemon(u8),
    /// Its daemon is stopped and started in place, as for an upgrade.
    Upgrade(u8),
    /// Its daemon is started anew with a clock that is so many seconds wrong, and keeps it.
    Skew(u8, i32),
    /// Its daemon's process is stopped by a signal, and goes on at the fault's end.
    Stall(u8),
    /// Its proxy is killed, and started at the fault's end.
    KillProxy(u8),
    /// Its interface goes down, and up at the fault's end.
    Flap(u8),
    /// The router drops all that comes from it or goes to it.
    CutHost(u8),
    /// The router drops its daemon's packets; calls and tunnel pass.
    CutLinks(u8),
    /// The router drops its tunnel packets; links and calls pass.
    CutTunnel(u8),
    /// It is drained, and undrained at the fault's end.
    Drain(u8),
    /// So many of a hundred packets between daemons are lost.
    LoseLinks(u8),
    /// So many of a hundred tunnel packets are lost.
    LoseTunnel(u8),
    /// Packets between daemons are late by so many milliseconds.
    DelayLinks(u16),
    /// Tunnel packets are late by so many milliseconds.
    DelayTunnel(u16),
    /// The cluster's secret is replaced, in the three steps that the operator takes.
    Rotate,
}

impl Fault {
    /// Its word in a schedule.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::KillDaemon(_) => "kill-daemon",
            Self::StopDaemon(_) => "stop-daemon",
            Self::Upgrade(_) => "upgrade",
            Self::Skew(..) => "skew",
            Self::Stall(_) => "stall",
            Self::KillProxy(_) => "kill-proxy",
            Self::Flap(_) => "flap",
            Self::CutHost(_) => "cut-host",
            Self::CutLinks(_) => "cut-links",
            Self::CutTunnel(_) => "cut-tunnel",
            Self::Drain(_) => "drain",
            Self::LoseLinks(_) => "lose-links",
            Self::LoseTunnel(_) => "lose-tunnel",
            Self::DelayLinks(_) => "delay-links",
            Self::DelayTunnel(_) => "delay-tunnel",
            Self::Rotate => "rotate",
        }
    }

    /// The edge that it is done to, if it is one.
    #[must_use]
    pub const fn edge(self) -> Option<u8> {
        match self {
            Self::KillDaemon(edge)
            | Self::StopDaemon(edge)
            | Self::Upgrade(edge)
            | Self::Skew(edge, _)
            | Self::Stall(edge)
            | Self::KillProxy(edge)
            | Self::Flap(edge)
            | Self::CutHost(edge)
            | Self::CutLinks(edge)
            | Self::CutTunnel(edge)
            | Self::Drain(edge) => Some(edge),
            Self::LoseLinks(_) | Self::LoseTunnel(_) | Self::DelayLinks(_) | Self::DelayTunnel(_) | Self::Rotate => {
                None
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.word())?;
        if let Some(edge) = self.edge() {
            write!(f, " {edge}")?;
        }
        match self {
            Self::Skew(_, seconds) => write!(f, " {seconds}"),
            Self::LoseLinks(percent) | Self::LoseTunnel(percent) => write!(f, " {percent}"),
            Self::DelayLinks(ms) | Self::DelayTunnel(ms) => write!(f, " {ms}"),
            Self::KillDaemon(_)
            | Self::StopDaemon(_)
            | Self::Upgrade(_)
            | Self::Stall(_)
            | Self::KillProxy(_)
            | Self::Flap(_)
            | Self::CutHost(_)
            | Self::CutLinks(_)
            | Self::CutTunnel(_)
            | Self::Drain(_)
            | Self::Rotate => Ok(()),
        }
    }
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let word = words.next().unwrap_or_default();
        let numbers: Result<Vec<i32>, _> = words.map(str::parse).collect();
        let numbers = numbers.with_context(|| format!("read the numbers of {text:?}"))?;
        let number = |place: usize| numbers.get(place).copied().with_context(|| format!("{text:?} lacks a number"));
        let small = || -> Result<u8> { u8::try_from(number(0)?).with_context(|| format!("read {text:?}")) };
        let millis = || -> Result<u16> { u16::try_from(number(0)?).with_context(|| format!("read {text:?}")) };
        Ok(match word {
            "kill-daemon" => Self::KillDaemon(small()?),
            "stop-daemon" => Self::StopDaemon(small()?),
            "upgrade" => Self::Upgrade(small()?),
            "skew" => Self::Skew(small()?, number(1)?),
            "stall" => Self::Stall(small()?),
            "kill-proxy" => Self::KillProxy(small()?),
            "flap" => Self::Flap(small()?),
            "cut-host" => Self::CutHost(small()?),
            "cut-links" => Self::CutLinks(small()?),
            "cut-tunnel" => Self::CutTunnel(small()?),
            "drain" => Self::Drain(small()?),
            "lose-links" => Self::LoseLinks(small()?),
            "lose-tunnel" => Self::LoseTunnel(small()?),
            "delay-links" => Self::DelayLinks(millis()?),
            "delay-tunnel" => Self::DelayTunnel(millis()?),
            "rotate" => Self::Rotate,
            _ => bail!("no fault is called {word:?}"),
        })
    }
}
