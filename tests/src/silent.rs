//! A peer that keeps its link and answers no question, neither its daemon nor programs, of which it has none.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use forwarder::cluster::links::{self, Event, Settings};
use forwarder::{config, identity};
use forwarder_common::ids::{Epoch, Epochs};
use forwarder_common::lifetime;
use forwarder_core::node::{Node, NodeSettings, Now, Output};
use forwarder_core::wire::Message;
use tokio::sync::{mpsc, oneshot};

use crate::forwarder::Config;
use crate::lab::{Host, Lab};

/// Commands and events that may wait.
const QUEUE: usize = 1024;

/// A running one, until dropped.
#[derive(Debug)]
pub struct Silent {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Silent {
    /// Starts it in the place of an edge's daemon, with that one's configuration.
    ///
    /// # Errors
    /// The configuration cannot be read.
    pub fn start(lab: &Lab, edge: u8, config: &Config) -> Result<Self> {
        let path = lab.folder().join(format!("silent{edge}.toml"));
        config.write(&path)?;
        let config = config::load(&path)?;
        let (stop, stopped) = oneshot::channel();
        let host = lab.host(Host::Edge(edge));
        let thread = std::thread::spawn(move || {
            host.within(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.context("start a runtime")?.block_on(run(&config, stopped))
            })
        });
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Ends it.
    ///
    /// # Errors
    /// It has ended before, with this error.
    pub fn stop(mut self) -> Result<()> {
        drop(self.stop.take());
        let thread = self.thread.take().context("find the silent peer's thread")?;
        thread.join().map_err(|_| anyhow!("the silent peer panicked"))?
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Whoever wants to know how it went stops it.
            let _ = thread.join();
        }
    }
}

async fn run(config: &config::Config, mut stopped: oneshot::Receiver<()>) -> Result<()> {
    let identity = std::sync::Arc::new(identity::load(config)?);
    let listen: SocketAddr = config.cluster.listen;
    let mut node = Node::new(NodeSettings {
        node: config.node,
        epochs: Epochs::EMPTY.with(Epoch::new(0)),
        underlay: config.underlay,
        listen,
        lifetimes: lifetime::LONGEST,
        claims: 1024,
        seed: 1,
        services: Vec::new(),
        must_equal: Vec::new(),
    });
    let (commands, commanded) = mpsc::channel(QUEUE);
    let (events, mut happened) = mpsc::channel(QUEUE);
    let settings = Settings { listen, seeds: config.cluster.seeds.clone(), identity };
    let links = links::spawn(settings, commanded, events)?;
    let start = Instant::now();
    loop {
        let due_us = node.poll_timeout().unwrap_or(u64::MAX).saturating_sub(now(start).monotonic_us);
        tokio::select! {
            _ = &mut stopped => break,
            Some(event) = happened.recv() => take(&mut node, event, now(start)),
            () = tokio::time::sleep(Duration::from_micros(due_us.min(100_000))) => {}
        }
        node.handle_timeout(now(start));
        while let Some(output) = node.poll_output() {
            if let Output::Link(command) = output {
                commands.send(command).await.context("tell the silent peer's links")?;
            }
        }
    }
    links.shutdown().await;
    Ok(())
}

fn take(node: &mut Node, event: Event, now: Now) {
    match event {
        Event::LinkUp { peer, address, named, .. } => {
            node.handle_link_up(peer, [address.ip()].into_iter().chain(named).collect(), now);
        }
        Event::LinkDown { peer, .. } => node.handle_link_down(peer, now),
        Event::Message { peer, bytes } => {
            if !matches!(Message::decode(&bytes), Ok(Message::Ask(_))) {
                // An honest peer breaks no protocol.
                let _ = node.handle_message(peer, &bytes, now);
            }
        }
        Event::Datagram { peer, bytes } => {
            let _ = node.handle_datagram(peer, &bytes, now);
        }
        Event::Refused { .. } | Event::OtherVersion { .. } => {}
    }
}

fn now(start: Instant) -> Now {
    let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Now { monotonic_us: start.elapsed().as_micros() as u64, unix_us: unix.as_micros() as u64 }
}
