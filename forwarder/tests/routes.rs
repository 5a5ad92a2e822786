//! Next hops from the kernel's own routes, in a namespace of the test's own. Needs root and `ip`.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::{
    fmt::Write as _,
    fs, io,
    net::{IpAddr, UdpSocket},
    process::{Command, Stdio},
    time::Duration,
};

use forwarder::routes::{self, NextHops};
use socket::Frames;
use tokio::{runtime, sync::mpsc, sync::watch, time};

#[path = "routes/socket.rs"]
mod socket;

const DEADLINE: Duration = Duration::from_secs(20);
/// Two cables, each with a router at its other end that answers nothing, and a route of two next hops over both.
const HOST: &str = "link set lo up
link add a0 type veth peer name a1
link add b0 type veth peer name b1
link set a0 up
link set a1 up
link set b0 up
link set b1 up
addr add 10.1.0.1/24 dev a0
addr add 10.2.0.1/24 dev b0
addr add fd01::1/64 dev a0 nodad
addr add fd02::1/64 dev b0 nodad
neigh add 10.1.0.2 lladdr 02:00:00:00:01:02 dev a0
neigh add 10.1.0.3 lladdr 02:00:00:00:01:03 dev a0
neigh add 10.2.0.2 lladdr 02:00:00:00:02:02 dev b0
neigh add fd01::2 lladdr 02:00:00:00:01:02 dev a0
neigh add fd02::2 lladdr 02:00:00:00:02:02 dev b0
route add 10.9.0.0/24 nexthop via 10.2.0.2 dev b0 nexthop via 10.1.0.2 dev a0
route add fd09::/64 nexthop via fd02::2 dev b0 nexthop via fd01::2 dev a0
route add 10.8.0.1/32 via 10.1.0.2 mtu 1300
route add 10.5.0.0/24 via 10.1.0.2
";

/// Runs a test in a thread with a network namespace of its own, and a runtime of this one thread.
fn in_a_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: it takes no pointers and changes this thread alone.
            let status = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(status, 0, "make a network namespace: {} (run as root)", io::Error::last_os_error());
            ip(HOST);
            runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs lines of `ip -batch` in this thread's namespace.
fn ip(lines: &str) {
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    io::Write::write_all(&mut ip.stdin.take().unwrap(), lines.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success(), "{lines}");
}

/// What the kernel would do with a packet now.
fn route(to: IpAddr) -> String {
    let output = Command::new("ip").args(["route", "get", &to.to_string()]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

struct Watched {
    peer: IpAddr,
    found: mpsc::Receiver<NextHops>,
    last: String,
    // Dropped, it ends the watch.
    _peers: watch::Sender<Vec<IpAddr>>,
}

impl Watched {
    fn new(peer: &str) -> Self {
        let peer = peer.parse().unwrap();
        let (sender, peers) = watch::channel(vec![peer]);
        Self { peer, found: routes::watch(peers).unwrap(), last: String::new(), _peers: sender }
    }

    /// Waits until the peer is reached in this way: interface, last byte of the MAC address, MTU, or why not.
    async fn until(&mut self, expected: &str) {
        let end = time::Instant::now() + DEADLINE;
        while self.last != expected {
            let found = time::timeout_at(end, self.found.recv()).await;
            let found = found.unwrap_or_else(|_| panic!("{expected}: {}", self.last)).unwrap();
            self.last = match &found[&self.peer] {
                Ok(hop) => format!("{} {:02x}{:02x} {}", hop.interface, hop.mac[4], hop.mac[5], hop.mtu),
                Err(reason) => reason.to_string(),
            };
        }
    }

    /// Looks again and again, for longer than a look without a change takes, whether all stays as it is.
    async fn stays(&mut self) {
        let changed = time::timeout(Duration::from_millis(2500), self.found.recv()).await;
        assert!(changed.is_err(), "{} became {changed:?}", self.last);
    }
}

#[test]
fn of_several_next_hops_the_first_that_is_up_is_taken() {
    in_a_namespace(|| async {
        for peer in ["10.9.0.7", "fd09::7"] {
            let mut watched = Watched::new(peer);
            watched.until("a0 0102 1500").await;
            ip("link set a1 down\n");
            watched.until("b0 0202 1500").await;
            ip("link set b1 down\n");
            watched.until("no route: no next hop of it is up").await;
            ip("link set b1 up\n");
            watched.until("b0 0202 1500").await;
            ip("link set a1 up\n");
            watched.until("a0 0102 1500").await;
            ip("link set a0 mtu 1400\n");
            watched.until("a0 0102 1400").await;
            ip("link set a0 mtu 1500\n");
        }
    });
}

#[test]
fn nexthop_objects_are_read_as_what_they_hold() {
    in_a_namespace(|| async {
        let mut lines = String::new();
        for (id, hop) in [(1, "via 10.2.0.2 dev b0"), (2, "via 10.1.0.2 dev a0"), (3, "group 1/2")] {
            writeln!(lines, "nexthop add id {id} {hop}").unwrap();
        }
        ip(&(lines + "route add 10.7.0.0/24 nhid 3\nroute add 10.6.0.0/24 nhid 1\n"));
        Watched::new("10.7.0.7").until("a0 0102 1500").await;
        Watched::new("10.6.0.7").until("b0 0202 1500").await;
        fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", "0").unwrap();
        let why = "no route: it has nexthop object 3; hint: `sysctl -w net.ipv4.nexthop_compat_mode=1`";
        Watched::new("10.7.0.7").until(why).await;
    });
}

#[test]
fn an_mtu_is_the_routes_own_and_this_hosts_address_is_named() {
    in_a_namespace(|| async {
        Watched::new("10.8.0.1").until("a0 0102 1300").await;
        Watched::new("10.1.0.1").until("its underlay address is this host's own").await;
    });
}

#[test]
fn what_icmp_teaches_the_kernel_of_a_route_changes_no_next_hop() {
    in_a_namespace(|| async {
        let mut watched = Watched::new("10.5.0.7");
        watched.until("a0 0102 1500").await;
        // A socket as any program may have one; without it the kernel believes no redirect.
        let _socket = UdpSocket::bind("10.1.0.1:6081").unwrap();
        let frames = Frames::at("a1");
        // About echo replies, whoever has sent them: the MTU of the way is 552.
        frames.too_big("203.0.113.9", "10.1.0.1", "10.5.0.7", 552);
        // About a packet of that socket: the way is over another router, says what looks like the present one.
        frames.redirect("10.1.0.2", "10.1.0.1", "10.5.0.7", "10.1.0.3");
        let end = time::Instant::now() + DEADLINE;
        let forged = |way: &str| way.contains("mtu 552") && way.contains("via 10.1.0.3");
        while !forged(&route(watched.peer)) {
            assert!(time::Instant::now() < end, "nothing was forged: {}", route(watched.peer));
            time::sleep(Duration::from_millis(10)).await;
        }
        watched.stays().await;
    });
}

#[test]
fn whether_the_kernel_believes_redirects_is_what_it_does_with_one() {
    in_a_namespace(|| async {
        let _socket = UdpSocket::bind("10.1.0.1:6081").unwrap();
        let set = |name: &str, value: bool| {
            fs::write(format!("/proc/sys/net/ipv4/conf/{name}"), if value { "1" } else { "0" }).unwrap();
        };
        for case in 0..8_u8 {
            let [forwards, all, own] = [0, 1, 2].map(|bit| case >> bit & 1 != 0);
            // Forwarding first: the kernel sets the others by it.
            set("a0/forwarding", forwards);
            set("all/accept_redirects", all);
            set("a0/accept_redirects", own);
            let peer = format!("10.5.0.{}", 100 + case);
            Frames::at("a1").redirect("10.1.0.2", "10.1.0.1", &peer, "10.1.0.3");
            // Behind it on the same cable: what it has taught is there when this one has been taken.
            let end = time::Instant::now() + DEADLINE;
            let marker = format!("10.5.0.{}", 200 + case);
            Frames::at("a1").too_big("203.0.113.9", "10.1.0.1", &marker, 552);
            while !route(marker.parse().unwrap()).contains("mtu 552") {
                assert!(time::Instant::now() < end, "case {case}: nothing is taught");
                time::sleep(Duration::from_millis(10)).await;
            }
            let is_taken = route(peer.parse().unwrap()).contains("via 10.1.0.3");
            assert_eq!(routes::believes_redirects("a0", false), is_taken, "forwards {forwards}, all {all}, own {own}");
        }
        assert!(routes::believes_redirects("a0", true), "as the kernel begins");
        fs::write("/proc/sys/net/ipv6/conf/a0/accept_redirects", "0").unwrap();
        assert!(!routes::believes_redirects("a0", true));
    });
}
