//! A socket for ICMP echo with one host: a ping socket where the host allows it, else a raw one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, netdevice, socket_with};
use tokio::net::UdpSocket;

use super::packet::Family;

/// A connected socket: it hears of that host alone, also of what keeps packets from it. To the runtime every socket of datagrams
/// is alike, whatever is in them.
pub(super) struct Socket(UdpSocket);

/// A socket that is not connected yet.
pub(super) struct Unconnected(OwnedFd);

/// Opens a socket. Needs a runtime with I/O when it is connected.
///
/// # Errors
/// `EACCES` or `EPERM` if the host allows neither kind.
pub(super) fn open(family: Family) -> Result<Unconnected, Errno> {
    let (domain, protocol) = match family {
        Family::V4 => (AddressFamily::INET, ipproto::ICMP),
        Family::V6 => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let open = |kind| socket_with(domain, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, Some(protocol));
    let socket = match open(SocketType::DGRAM) {
        Err(Errno::ACCESS | Errno::PERM | Errno::PROTONOSUPPORT | Errno::PROTOTYPE) => open(SocketType::RAW)?,
        other => other?,
    };
    Ok(Unconnected(socket))
}

impl Unconnected {
    /// The number of a network interface, which stands in addresses.
    pub(super) fn interface_index(&self, name: &str) -> Result<u32, Errno> {
        netdevice::name_to_index(&self.0, name)
    }

    /// Binds it to one host.
    pub(super) fn connect(self, address: SocketAddr) -> io::Result<Socket> {
        connect(&self.0, &address)?;
        Ok(Socket(UdpSocket::from_std(self.0.into())?))
    }
}

impl Socket {
    /// Sends a packet. Does not wait.
    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        let send = || rustix::net::send(&self.0, packet, rustix::net::SendFlags::NOSIGNAL).map(drop);
        // The first try may only hand over the error of an earlier packet.
        Ok(send().or_else(|_| send())?)
    }

    /// Waits for a packet. Cancel-safe.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer).await
    }
}

/// Whether the host has the family at all is not the same as whether it may be used.
pub(super) fn is_missing(errno: Errno) -> bool {
    matches!(errno, Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT)
}

/// The address as a socket takes it.
pub(super) fn socket_address(address: IpAddr, interface: u32) -> SocketAddr {
    match address {
        IpAddr::V4(_) => SocketAddr::new(address, 0),
        IpAddr::V6(address) => std::net::SocketAddrV6::new(address, 0, 0, interface).into(),
    }
}
