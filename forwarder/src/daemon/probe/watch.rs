//! The sockets that take a service's packets, four times a second, from the kernel's own list of this network
//! namespace.
//!
//! The list is read in pieces while it changes, and may then lack a socket that is there: what looks like an end is
//! looked at twice. All of it happens on a thread of its own, whose share of a CPU is bounded however many sockets the
//! host has.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::sync::{Notify, mpsc};

use forwarder_core::failover::Evidence;

/// How often the sockets are looked at: a proxy that dies is missed for that long.
const PAUSE: Duration = Duration::from_millis(250);
/// Pause after a look, in times the look has taken: looking takes a twentieth of a CPU at most.
const SHARE: u32 = 20;
/// Of the network namespace that this thread is in, whatever /proc was mounted for.
const LISTS: [&str; 2] = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];

/// What was seen of the proxy of a service, by the service's place in the configuration.
pub(crate) type Seen = (usize, Evidence);

/// A service to look at.
pub(super) struct Watched {
    /// Its place in the configuration.
    pub(super) index: usize,
    /// Its address.
    pub(super) address: SocketAddr,
    /// Told of when there are other sockets than before.
    pub(super) changed: Arc<Notify>,
}

/// Looks until `seen` is closed; tells of the first look and of each change.
pub(super) fn spawn(watched: Vec<Watched>, seen: mpsc::Sender<Seen>) -> Result<()> {
    let body = move || watch(&watched, &seen);
    thread::Builder::new().name("sockets".to_owned()).spawn(body).context("start the thread that watches sockets")?;
    Ok(())
}

fn watch(watched: &[Watched], seen: &mpsc::Sender<Seen>) {
    let mut last: Vec<Option<BTreeSet<u64>>> = vec![None; watched.len()];
    let mut complained = false;
    while !seen.is_closed() {
        let start = Instant::now();
        match look(watched, &last) {
            Ok(now) => {
                complained = false;
                for ((service, last), now) in watched.iter().zip(&mut last).zip(now) {
                    if last.as_ref() == Some(&now) {
                        continue;
                    }
                    if seen.blocking_send((service.index, Evidence::Sockets(now.clone()))).is_err() {
                        return;
                    }
                    *last = Some(now);
                    service.changed.notify_one();
                }
            }
            Err(error) if !complained => {
                complained = true;
                log::warn!("watch the sockets of the services: {error:#}; a proxy's end is seen by its silence only");
            }
            Err(_) => {}
        }
        thread::sleep(PAUSE.max(start.elapsed() * SHARE));
    }
}

/// The inodes of each service's sockets.
fn look(watched: &[Watched], last: &[Option<BTreeSet<u64>>]) -> Result<Vec<BTreeSet<u64>>> {
    let mut now = read(watched)?;
    let is_end = |(now, last): (&BTreeSet<u64>, &Option<BTreeSet<u64>>)| {
        last.as_ref().is_none_or(|last| last.is_disjoint(now) && !(last.is_empty() && now.is_empty()))
    };
    if now.iter().zip(last).any(is_end) {
        for (now, again) in now.iter_mut().zip(read(watched)?) {
            now.extend(again);
        }
    }
    Ok(now)
}

fn read(watched: &[Watched]) -> Result<Vec<BTreeSet<u64>>> {
    let mut found = vec![BTreeSet::new(); watched.len()];
    for list in LISTS {
        let text = match fs::read_to_string(list) {
            // A host without IPv6 has no such list.
            Err(error) if error.kind() == io::ErrorKind::NotFound && list.ends_with('6') => continue,
            text => text.with_context(|| format!("read {list}"))?,
        };
        for (local, inode) in text.lines().skip(1).filter_map(bound) {
            for (service, inodes) in watched.iter().zip(&mut found) {
                if takes(local, service.address) {
                    inodes.insert(inode);
                }
            }
        }
    }
    Ok(found)
}

/// Whether a socket bound to `local` takes what is sent to `service`. One bound to `::` takes IPv4 as well, unless it
/// was made not to, which the list does not say.
fn takes(local: SocketAddr, service: SocketAddr) -> bool {
    let (ip, v6) = (local.ip().to_canonical(), local.is_ipv6());
    local.port() == service.port() && (ip == service.ip() || (ip.is_unspecified() && (v6 || service.is_ipv4())))
}

/// The address and the inode of a socket that is bound and not connected, from its line.
fn bound(line: &str) -> Option<(SocketAddr, u64)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (socket(words.next()?)?, socket(words.next()?)?);
    let inode = words.nth(6)?.parse().ok()?;
    (remote.port() == 0 && local.port() != 0).then_some((local, inode))
}

/// An address in the form of the list: words of 32 bits as they lie in memory, each as a hexadecimal number, and the
/// port.
fn socket(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(8 * at..8 * at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = if address.len() == 8 {
        IpAddr::V4(Ipv4Addr::from(word(0)?))
    } else {
        let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
        IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str =
        "14627: 0A0200C0:13C4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 2970646 2 0 0";
    const CONNECTED: &str =
        " 1830: 0A0200C0:13C4 0A0200C0:1F90 01 00000000:00000000 00:00000000 00000000 0 0 2970654 2 0 0";
    const MAPPED: &str = "14637: 0000000000000000FFFF00000A0200C0:13CE 00000000000000000000000000000000:0000 07 \
                          00000000:00000000 00:00000000 00000000     0        0 2970655 2 00000000b95518cf 0";

    #[test]
    fn a_line_of_the_list_is_a_socket_and_its_inode() {
        assert_eq!(bound(V4), Some(("192.0.2.10:5060".parse().unwrap(), 2_970_646)));
        assert_eq!(bound(MAPPED), Some(("[::ffff:192.0.2.10]:5070".parse().unwrap(), 2_970_655)));
        assert_eq!(bound(CONNECTED), None);
        for odd in ["", "1:", "1: x:y z:0", "1: 0A0200C0:13C4 00000000:0000 07 0 0 0 0 0 many"] {
            assert_eq!(bound(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_service_is_taken_by_its_own_address_and_by_all_addresses() {
        let table = [
            ("192.0.2.10:5060", "192.0.2.10:5060", true),
            ("0.0.0.0:5060", "192.0.2.10:5060", true),
            ("[::]:5060", "192.0.2.10:5060", true),
            ("[::ffff:192.0.2.10]:5060", "192.0.2.10:5060", true),
            ("[::]:5060", "[2001:db8::10]:5060", true),
            ("[2001:db8::10]:5060", "[2001:db8::10]:5060", true),
            ("0.0.0.0:5060", "[2001:db8::10]:5060", false),
            ("[2001:db8::11]:5060", "[2001:db8::10]:5060", false),
            ("192.0.2.10:5061", "192.0.2.10:5060", false),
            ("192.0.2.11:5060", "192.0.2.10:5060", false),
        ];
        for (local, service, expected) in table {
            assert_eq!(takes(local.parse().unwrap(), service.parse().unwrap()), expected, "{local} {service}");
        }
    }
}
