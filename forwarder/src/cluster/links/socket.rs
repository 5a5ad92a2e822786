//! The UDP socket of the links, with room for bursts.

use std::net::{SocketAddr, UdpSocket};

use anyhow::Context as _;
use log::warn;
use rustix::net::sockopt;

/// Bytes that the kernel keeps for the socket, each way: a tenth of a second at 320 Mb/s, or 300 peers that send 10 kB
/// at once.
const BUFFER: usize = 4 << 20;

/// Binds the address and asks for large buffers.
///
/// # Errors
/// The address cannot be listened on; one sentence with a hint.
pub(super) fn bind(listen: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind(listen).map_err(|error| {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "all other errors have one hint, and there are new ones with each Rust"
        )]
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => "another process has this port; stop it or change `listen` in [cluster]",
            std::io::ErrorKind::AddrNotAvailable => "give an address of this host as `listen` in [cluster]",
            std::io::ErrorKind::PermissionDenied => "take a port above 1023, or run as root",
            _ => "check `listen` in [cluster]",
        };
        anyhow::anyhow!("listen on {listen}: {error}; hint: {hint}")
    })?;
    // With CAP_NET_ADMIN beyond the system's limit, else up to it.
    if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, BUFFER)
            .context("size the receive buffer of the links' socket")?;
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, BUFFER).is_err() {
        sockopt::set_socket_send_buffer_size(&socket, BUFFER).context("size the send buffer of the links' socket")?;
    }
    // The kernel counts its own overhead and answers with twice what was set.
    let received = sockopt::socket_recv_buffer_size(&socket).context("ask for the receive buffer's size")? / 2;
    let sent = sockopt::socket_send_buffer_size(&socket).context("ask for the send buffer's size")? / 2;
    for (size, which, key) in [(received, "receive", "rmem_max"), (sent, "send", "wmem_max")] {
        if size < BUFFER {
            warn!(
                "cluster: the {which} buffer of the links' socket has {size} bytes instead of {BUFFER}: \
                 bursts of claims may be lost and sent again; hint: sysctl -w net.core.{key}={BUFFER}"
            );
        }
    }
    Ok(socket)
}
