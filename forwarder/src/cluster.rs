//! How the nodes tell each other about claims.
//!
//! [`forwarder_core::node`] decides and does no I/O, [`links`] moves bytes over mutual TLS and decides nothing,
//! [`forwarder_core::wire`] is what they say. The daemon owns the [`forwarder_core::node::Node`] and stands between
//! them and the kernel's maps:
//!
//! ```text
//! for claim in maps.own_claims() { node.handle_restored(claim, now()) }   // before the first link
//! loop {
//!     let due = node.poll_timeout();                              // monotonic µs; none: wait for an event
//!     select! {
//!         event = events.recv() => match event {
//!             Event::LinkUp { peer, .. } => node.handle_link_up(peer, now()),
//!             Event::LinkDown { peer, .. } => node.handle_link_down(peer, now()),
//!             Event::Message { peer, bytes } => if let Err(error) = node.handle_message(peer, &bytes, now()) {
//!                 commands.send(Command::Drop { peer, reason: error.to_string() }).await;   // kept out for a while
//!             },
//!             Event::Refused { .. } => {}                             // logged and counted already
//!         },
//!         claims = ring_buffer.next() => for claim in claims { node.handle_local(claim, now()) },   // all that wait, and first:
//!                                                             // what a peer asks for may be among them
//!         held = slow_path.next() => node.handle_ask(held.ticket, held.request_key, held.reply_key, now()),
//!         () = sleep_until(due) => {},
//!     }
//!     node.handle_timeout(now());                                 // sends at once what may go at once
//!     while let Some(output) = node.poll_output() {
//!         match output {
//!             Output::Send { to, message, kind } => commands.send(Command::Send { to, message, kind }).await,
//!             Output::Map(write) => maps.apply(write)?,               // before the answer that follows it
//!             Output::Answer { ticket, owned } => slow_path.answered(ticket, owned),
//!         }
//!     }
//! }
//! ```
//!
//! The links never wait for the daemon before they take a command, so those sends end. When `events` ends, the links
//! are broken; the daemon says so and goes on with the claims it has.

use forwarder_core::node::CoreCounters;
use serde::Serialize;

pub mod links;

/// What core and links counted, for `status` and the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Claims, batches, conflicts.
    #[serde(flatten)]
    pub core: CoreCounters,
    /// Links, refusals, queues.
    #[serde(flatten)]
    pub links: links::LinkCounters,
}
