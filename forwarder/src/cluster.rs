//! The cluster: what the nodes tell each other about claims, and how.
//!
//! [`core`] decides and does no I/O, [`links`] moves bytes over mutual TLS and decides nothing, [`wire`] is what they say. The
//! daemon owns the [`core::Node`] and stands between them and the kernel's maps:
//!
//! ```text
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
//! The links never wait for the daemon before they take a command, so those sends end. When `events` ends, the links are
//! broken; the daemon says so and goes on with the claims it has.

use serde::Serialize;

pub mod ages;
pub mod core;
pub mod links;
mod members;
pub mod store;
pub mod wire;

/// What core and links counted, for `status` and the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Claims, batches, conflicts.
    #[serde(flatten)]
    pub core: core::CoreCounters,
    /// Links, refusals, queues.
    #[serde(flatten)]
    pub links: links::LinkCounters,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Names of things that would make the core depend on more than its arguments.
    const FORBIDDEN: [&str; 10] =
        ["tokio", "aya", "quinn", "Instant", "SystemTime", "HashMap", "HashSet", "RandomState", "std::thread", "libc"];
    const SANS_IO: [&str; 24] = [
        "ages.rs",
        "core.rs",
        "core/asks.rs",
        "core/beaten.rs",
        "core/budget.rs",
        "core/inbox.rs",
        "core/interface.rs",
        "core/local.rs",
        "core/log.rs",
        "core/outbox.rs",
        "core/ranges.rs",
        "core/receive.rs",
        "core/repair.rs",
        "core/views.rs",
        "members.rs",
        "members/identity.rs",
        "store.rs",
        "store/held.rs",
        "store/tests.rs",
        "store/word.rs",
        "wire.rs",
        "wire/codec.rs",
        "wire/error.rs",
        "wire/tests.rs",
    ];

    #[test]
    fn the_core_knows_no_clock_no_task_and_no_chance() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cluster");
        for file in SANS_IO {
            let text = std::fs::read_to_string(folder.join(file)).unwrap();
            for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                let words = FORBIDDEN.iter().filter(|word| line.contains(**word));
                assert_eq!(words.count(), 0, "{file}: {line}");
            }
        }
        for part in ["core", "members", "store", "wire"] {
            let files = std::fs::read_dir(folder.join(part)).map_or(0, Iterator::count);
            let listed = SANS_IO.iter().filter(|file| file.starts_with(&format!("{part}/"))).count();
            assert_eq!(files, listed, "list every file of {part}");
        }
    }
}
