//! What is done to hosts and network.

/// Something that happens to hosts or network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A region is cut off from all others: links and tunnels.
    CutRegion(usize),
    /// It is connected again.
    HealRegion(usize),
    /// A host is cut off from all others.
    CutHost(usize),
    /// It is connected again.
    HealHost(usize),
    /// A host loses its power, and with it proxy, kernel and daemon.
    Crash(usize),
    /// It boots: an empty kernel, a new proxy and daemon.
    Boot(usize),
    /// Its daemon is killed; kernel and proxy go on.
    KillDaemon(usize),
    /// Its daemon ends in order; kernel and proxy go on.
    StopDaemon(usize),
    /// Its daemon starts with the maps as they are.
    StartDaemon(usize),
    /// The process of its daemon is stopped for so many milliseconds; kernel and proxy go on.
    Stall(usize, u64),
    /// Its proxy dies.
    StopProxy(usize),
    /// Its proxy starts.
    StartProxy(usize),
    /// Its proxy restarts between two looks at its sockets.
    RestartProxy(usize),
    /// Its proxy falls silent, as in a flood: its socket is there, and it answers nothing.
    SilenceProxy(usize),
    /// It answers again.
    WakeProxy(usize),
    /// Its operator drains it: no new transactions.
    Drain(usize),
    /// Its operator takes it back into service.
    Undrain(usize),
    /// Its daemon says whatever its peers must take from it, with extreme values, and its proxy ends: nothing lands
    /// there.
    TurnHostile(usize),
    /// Its daemon is killed, which ends that.
    EndHostile(usize),
    /// The next part of the report begins.
    Phase(&'static str),
}
