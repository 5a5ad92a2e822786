//! The cluster: what the nodes tell each other about claims, and how.
//!
//! [`core`] decides and does no I/O, [`links`] moves bytes over mutual TLS and decides nothing, [`wire`] is what they say. The
//! daemon owns the [`core::Node`] and stands between them and the kernel's maps:
//!
//! ```text
//! loop {
//!     let due = node.poll_timeout();                              // monotonic µs; none: wait for an event
//!     select! {
//!         event = events.recv() => match event? {
//!             Event::LinkUp { peer, .. } => node.handle_link_up(peer, now()),
//!             Event::LinkDown { peer, .. } => node.handle_link_down(peer, now()),
//!             Event::Message { peer, bytes } => if let Err(error) = node.handle_message(peer, &bytes, now()) {
//!                 links.drop_link(peer, &error.to_string());       // closed, and refused for a growing while
//!             },
//!         },
//!         claims = ring_buffer.next() => for claim in claims { node.handle_local(claim, now()) },   // all that wait
//!         () = sleep_until(due) => {},
//!     }
//!     node.handle_timeout(now());                                 // sends at once what may go at once
//!     while let Some(output) = node.poll_output() {
//!         match output {
//!             Output::Send { to, message, .. } => links.send(to, message),  // never waits
//!             Output::Map(write) => maps.apply(write)?,
//!         }
//!     }
//! }
//! ```

pub mod ages;
pub mod core;
pub mod store;
pub mod wire;
