//! A veth pair in a namespace of its own, and frames put on it by hand.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use aya::programs::{SchedClassifier, TcAttachType};
use futures_util::TryStreamExt as _;
use rtnetlink::{LinkUnspec, LinkVeth};
use tokio::runtime::Runtime;

/// The end that the programs are attached to.
pub(crate) const NEAR: &str = "near0";
const FAR: &str = "far0";

/// Both ends, up.
pub(crate) struct Wire {
    runtime: Runtime,
    netlink: rtnetlink::Handle,
    socket: OwnedFd,
}

/// Runs a test in a thread with a network namespace of its own, which ends with it.
pub(crate) fn in_a_namespace(test: impl FnOnce(&Wire) + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: it takes no pointers and changes this thread alone.
            let status = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(status, 0, "make a network namespace: {} (run as root)", io::Error::last_os_error());
            test(&Wire::new());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Wire {
    fn new() -> Self {
        // One thread: another one would be in another namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let netlink = runtime.block_on(async {
            let (connection, netlink, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            netlink.link().add(LinkVeth::new(NEAR, FAR).build()).execute().await.unwrap();
            for name in ["lo", NEAR, FAR] {
                let up = LinkUnspec::new_with_index(index(name)).up().build();
                netlink.link().set(up).execute().await.unwrap();
            }
            netlink
        });
        // SAFETY: it takes no pointers.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(socket >= 0, "open a packet socket: {}", io::Error::last_os_error());
        // SAFETY: the kernel has just given this descriptor to nobody else.
        Self { runtime, netlink, socket: unsafe { OwnedFd::from_raw_fd(socket) } }
    }

    /// Lets a frame arrive at the near end.
    pub(crate) fn arrive(&self, frame: &[u8]) {
        self.send(FAR, frame);
    }

    /// Lets a frame leave by the near end.
    pub(crate) fn leave(&self, frame: &[u8]) {
        self.send(NEAR, frame);
    }

    /// Programs at the near end's way out, however they are attached.
    pub(crate) fn egress_programs(&self) -> usize {
        let ifindex = index(NEAR).cast_signed();
        let filters = self.runtime.block_on(async {
            let filters = self.netlink.traffic_filter(ifindex).get().egress().execute().try_collect::<Vec<_>>().await;
            filters.unwrap_or_default()
        });
        // Each filter is told of with a number, after its chain without one.
        let filters = filters.iter().filter(|filter| filter.header.handle != 0.into()).count();
        filters + SchedClassifier::query_tcx(NEAR, TcAttachType::Egress).map_or(0, |(_, programs)| programs.len())
    }

    fn send(&self, interface: &str, frame: &[u8]) {
        let mut to = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_IP as u16).to_be(),
            sll_ifindex: index(interface).cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        to.sll_addr.iter_mut().zip(frame).for_each(|(to, from)| *to = *from);
        // SAFETY: both pointers are to live values of the given lengths.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of_val(&to) as u32,
            )
        };
        assert_eq!(sent, frame.len().cast_signed(), "send by {interface}: {}", io::Error::last_os_error());
    }
}

/// An interface's index.
pub(crate) fn index(name: &str) -> u32 {
    let name = CString::new(name).unwrap();
    // SAFETY: the name ends with NUL and lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "find {name:?}: {}", io::Error::last_os_error());
    index
}
