//! What capsules need to reach the world, and we to be reached.

use super::{Check, Plan, tool};
use std::fs::{self, File};
use std::net::TcpListener;

/// Rules for egress are nftables rules.
pub fn nft() -> Check {
    let name = "nftables";
    match tool("nft", &["--json", "list", "tables"]) {
        Ok(_) => Check::ok(name, "nft works"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Check::fail(name, "nft is not installed", "apt-get install nftables")
        }
        Err(error) => Check::fail(name, format!("nft: {error}"), "run it with sudo, on a kernel with nf_tables"),
    }
}

/// Each capsule's network card is a TAP device.
pub fn tun() -> Check {
    let name = "tun";
    match File::options().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Check::ok(name, "/dev/net/tun"),
        Err(error) => Check::fail(name, format!("/dev/net/tun: {error}"), "modprobe tun"),
    }
}

/// Without it no packet of a capsule leaves the machine.
pub fn forwarding() -> Check {
    let name = "ip_forward";
    match fs::read_to_string("/proc/sys/net/ipv4/ip_forward").as_deref().map(str::trim) {
        Ok("1") => Check::ok(name, "on"),
        Ok(_) => Check::warn(
            name,
            "off",
            "the agent turns it on when it starts; to keep it on: sysctl -w net.ipv4.ip_forward=1",
        ),
        Err(error) => Check::fail(name, error.to_string(), "mount /proc and /proc/sys writable"),
    }
}

/// Another table's drop cannot be overruled by our accept: every base chain at a hook must let a packet pass.
pub fn foreign_firewall() -> Check {
    let name = "egress";
    let Ok(text) = tool("nft", &["--json", "list", "chains"]) else {
        return Check::warn(name, "unknown without nft", "apt-get install nftables");
    };
    let dropping = dropping_chains(&text);
    if dropping.is_empty() {
        return Check::ok(name, "no other firewall drops forwarded packets");
    }
    let remedy = dropping.iter().map(|chain| format!("nft insert rule {chain} iifname \"wv*\" accept"));
    Check::warn(
        name,
        format!("egress_blocked_by_host_firewall: {} drops by default", dropping.join(", ")),
        remedy.collect::<Vec<_>>().join("; "),
    )
}

/// `family table chain` of each forward chain that drops what no rule accepts, ours excepted.
fn dropping_chains(listing: &str) -> Vec<String> {
    let listing: serde_json::Value = serde_json::from_str(listing).unwrap_or_default();
    let objects = listing["nftables"].as_array().cloned().unwrap_or_default();
    objects
        .iter()
        .map(|object| &object["chain"])
        .filter(|chain| chain["hook"] == "forward" && chain["policy"] == "drop")
        .filter_map(|chain| Some((chain["family"].as_str()?, chain["table"].as_str()?, chain["name"].as_str()?)))
        .filter(|(_, table, _)| !table.starts_with("wrenn_"))
        .map(|(family, table, name)| format!("{family} {table} {name}"))
        .collect()
}

/// Whether the API could listen.
pub fn port(plan: &Plan) -> Check {
    let name = "port";
    if plan.running {
        return Check::ok(name, format!("{}: a platform of this data directory is running", plan.listen));
    }
    match TcpListener::bind(plan.listen) {
        Ok(_) => Check::ok(name, format!("{} is free", plan.listen)),
        Err(error) => {
            Check::fail(name, format!("{}: {error}", plan.listen), "choose another with --listen 127.0.0.1:PORT")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_drops_are_found_and_ours_are_not() {
        let chain = |table: &str, policy: &str| {
            format!(
                r#"{{"chain":{{"family":"ip","table":"{table}","name":"FORWARD","hook":"forward","policy":"{policy}"}}}}"#
            )
        };
        let text = format!(
            r#"{{"nftables":[{},{},{}]}}"#,
            chain("filter", "drop"),
            chain("wrenn_1", "drop"),
            chain("nat", "accept")
        );
        assert_eq!(dropping_chains(&text), ["ip filter FORWARD"]);
        assert!(dropping_chains("not json").is_empty());
    }
}
