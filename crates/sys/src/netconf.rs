//! Interfaces and routes by ioctl (netdevice(7)): enough for a guest with one interface and no netlink crate.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

/// IPv4 settings of one interface.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4 {
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the network prefix, 0 to 32.
    pub prefix: u8,
}

/// Sets the hardware address. The interface must be down.
pub fn set_mac(interface: &str, mac: [u8; 6]) -> io::Result<()> {
    let mut request = Request::new(interface)?;
    // SAFETY: `ifru_hwaddr` is plain data of the union; six bytes fit into its 14.
    unsafe {
        request.0.ifr_ifru.ifru_hwaddr.sa_family = libc::ARPHRD_ETHER;
        for (to, from) in request.0.ifr_ifru.ifru_hwaddr.sa_data.iter_mut().zip(mac) {
            *to = from.cast_signed();
        }
    }
    request.perform(libc::SIOCSIFHWADDR)
}

/// Sets address and netmask.
pub fn set_ipv4(interface: &str, ipv4: Ipv4) -> io::Result<()> {
    let netmask = u32::MAX.checked_shl(32 - u32::from(ipv4.prefix.min(32))).unwrap_or(0);
    for (operation, address) in [(libc::SIOCSIFADDR, ipv4.address), (libc::SIOCSIFNETMASK, Ipv4Addr::from(netmask))] {
        let mut request = Request::new(interface)?;
        request.0.ifr_ifru.ifru_addr = socket_address(address);
        request.perform(operation)?;
    }
    Ok(())
}

/// The first IPv4 address of an interface; an error when it has none or does not exist.
pub fn ipv4(interface: &str) -> io::Result<Ipv4Addr> {
    let mut request = Request::new(interface)?;
    request.perform(libc::SIOCGIFADDR)?;
    // SAFETY: the kernel wrote a socket address; AF_INET is checked before it is read as one.
    let address = unsafe {
        if i32::from(request.0.ifr_ifru.ifru_addr.sa_family) != libc::AF_INET {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let address: libc::sockaddr_in = std::mem::transmute(request.0.ifr_ifru.ifru_addr);
        address.sin_addr.s_addr
    };
    Ok(Ipv4Addr::from(address.to_ne_bytes()))
}

/// Brings an interface up.
pub fn set_up(interface: &str) -> io::Result<()> {
    let mut request = Request::new(interface)?;
    request.perform(libc::SIOCGIFFLAGS)?;
    // SAFETY: the kernel has just written `ifru_flags`.
    unsafe { request.0.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short };
    request.perform(libc::SIOCSIFFLAGS)
}

/// Adds the default route. One that is there already is not an error.
pub fn add_default_route(gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: all zeroes is a valid `rtentry`.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    let socket = control_socket()?;
    // SAFETY: `route` outlives the call, and SIOCADDRT reads a `rtentry`.
    match check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw const route) }) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// An `ifreq` with the interface's name filled in.
struct Request(libc::ifreq);

impl Request {
    fn new(interface: &str) -> io::Result<Self> {
        // SAFETY: all zeroes is a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if interface.len() >= request.ifr_name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = from.cast_signed();
        }
        Ok(Self(request))
    }

    fn perform(&mut self, operation: libc::c_ulong) -> io::Result<()> {
        let socket = control_socket()?;
        // SAFETY: every operation used here reads and writes one `ifreq`, which outlives the call.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), operation, &raw mut self.0) })
    }
}

fn control_socket() -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    Ok(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain data of 16 bytes; the kernel tells them apart by the family.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_its_address() -> io::Result<()> {
        assert_eq!(ipv4("lo")?, Ipv4Addr::LOCALHOST);
        assert!(ipv4("no-such-if").is_err());
        assert!(Request::new("a-name-that-is-too-long").is_err());
        Ok(())
    }
}
