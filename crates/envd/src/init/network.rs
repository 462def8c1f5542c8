//! Addresses and names. Every guest has the same ones: each lives in a network namespace of its own.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use sys::netconf::{self, Ipv4};

use super::console::Console;
use crate::machine;

const INTERFACE: &str = "eth0";
const MAC: [u8; 6] = [0x02, 0xfc, 0x00, 0x00, 0x00, 0x05];
/// The guest's, the only one the host reaches.
pub(super) const ADDRESS: Ipv4 = Ipv4 { address: Ipv4Addr::new(169, 254, 0, 21), prefix: 30 };
/// The host's side; also answers questions for names.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 22);
const HOSTNAME: &str = "capsule";

pub(super) fn configure(console: &mut Console) {
    console.step("lo", netconf::set_up("lo"));
    console.step(INTERFACE, interface());
    console.step("hostname", machine::set_hostname(HOSTNAME));
    console.step("/etc/resolv.conf", resolver());
    // Any user may ping, and bind low ports: the machine is theirs.
    for (name, value) in [("ping_group_range", "0 2147483647"), ("ip_unprivileged_port_start", "0")] {
        console.step(name, fs::write(format!("/proc/sys/net/ipv4/{name}"), value));
    }
    console.phase_ended("network");
}

fn interface() -> io::Result<()> {
    netconf::set_mac(INTERFACE, MAC)?;
    netconf::set_ipv4(INTERFACE, ADDRESS)?;
    netconf::set_up(INTERFACE)?;
    netconf::add_default_route(GATEWAY)
}

/// Images often have a link to a resolver that does not run here; writing through it would fail.
fn resolver() -> io::Result<()> {
    let path = "/etc/resolv.conf";
    let content = format!("nameserver {GATEWAY}\n");
    if fs::read_to_string(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_symlink()) {
        fs::remove_file(path)?;
    }
    fs::create_dir_all("/etc")?;
    fs::write(path, content)
}
