//! IPv4 forwarding, switched on per interface: `net.ipv4.ip_forward` would make a router of every other interface too.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

/// Routes through a gateway (`RTF_GATEWAY`), `<linux/route.h>`.
const RTF_GATEWAY: u32 = 2;

/// Writes a setting of an interface of the calling thread's namespace.
pub(crate) fn set_ipv4(interface: &str, setting: &str, value: &str) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/{setting}"), value)
}

/// No IPv6, on `all`, `default` or one interface. A kernel without IPv6 has nothing to switch off.
pub(crate) fn disable_ipv6(interface: &str) -> io::Result<()> {
    match std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An interface of the host that leads out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub interface: String,
    /// Whether it forwards; where it does not, an agent's start switches it on.
    pub forwards: bool,
    /// Whether that can be switched: a container's `/proc/sys` may be read-only.
    pub switchable: bool,
}

impl Uplink {
    /// The setting that lets answers from outside through.
    pub fn setting(&self) -> PathBuf {
        setting(&self.interface)
    }
}

/// The interfaces that lead out of the calling thread's namespace.
pub fn find_uplinks() -> io::Result<Vec<Uplink>> {
    let found = |interface: &str| {
        let setting = setting(interface);
        let forwards = std::fs::read_to_string(&setting).is_ok_and(|value| value.trim() == "1");
        let switchable = rustix::fs::access(&setting, rustix::fs::Access::WRITE_OK).is_ok();
        Uplink { interface: interface.to_owned(), forwards, switchable }
    };
    Ok(uplinks(&std::fs::read_to_string("/proc/thread-self/net/route")?).into_iter().map(found).collect())
}

fn setting(interface: &str) -> PathBuf {
    format!("/proc/sys/net/ipv4/conf/{interface}/forwarding").into()
}

/// Lets answers from outside through: they arrive at the interfaces that lead out.
pub(crate) fn enable_uplinks() -> io::Result<()> {
    for interface in uplinks(&std::fs::read_to_string("/proc/thread-self/net/route")?) {
        let setting = setting(interface);
        // An interface may vanish meanwhile; writing a value that is there already would drop its LRO for nothing.
        if std::fs::read_to_string(&setting).is_ok_and(|value| value.trim() == "0") {
            tracing::info!(interface, "switching on IPv4 forwarding");
            std::fs::write(&setting, "1")?;
        }
    }
    Ok(())
}

/// Interfaces with a default route (which needs no gateway on point-to-point links) or one through a gateway.
fn uplinks(routes: &str) -> BTreeSet<&str> {
    let leads_out = |line: &&str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [_, destination, _, flags, _, _, _, mask, ..] = fields.as_slice() else { return false };
        let default = (*destination, *mask) == ("00000000", "00000000");
        default || u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & RTF_GATEWAY != 0)
    };
    routes.lines().skip(1).filter(leads_out).filter_map(|line| line.split_ascii_whitespace().next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_that_lead_out() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n\
            tun0\t0000000A\t0100000A\t0003\t0\t0\t0\t000000FF\t0\t0\t0\n\
            docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
            broken\n";
        assert_eq!(uplinks(routes).into_iter().collect::<Vec<_>>(), ["eth0", "ppp0", "tun0"]);
    }
}
