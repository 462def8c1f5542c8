//! What capsules need to reach the world, and we to be reached.

use super::check::Finding;
use super::fix::Fix;
use super::programs::{installation, run};
use agent::survey::{Obstacle, Uplink};
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

/// Modules a slot is made of, where they are modules.
const SLOT_MODULES: &[&str] = &["tun", "veth", "nf_tables", "nf_conntrack", "nft_ct", "nft_masq", "sch_tbf"];

/// Asks the tool for its version, and the kernel for its tables.
pub fn nft_version() -> io::Result<String> {
    let version = run("nft", &["--version"])?;
    run("nft", &["--json", "list", "tables"])?;
    Ok(version.trim().to_owned())
}

/// Rules for egress are nftables rules.
pub fn nft(version: &io::Result<String>) -> Finding {
    match version {
        Ok(version) => Finding::ok(version),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::fail("nft is not installed", installation(&["nftables"]))
        }
        Err(error) if error.to_string().contains("not permitted") => {
            Finding::fail(format!("nft: {error}"), "run it with sudo")
        }
        Err(error) => Finding::fail_fixable(format!("nft: {error}"), Fix::Load(&["nf_tables"])),
    }
}

/// Opens the device that TAP devices are made with, `/dev/net/tun`.
pub fn open_tun(device: &Path) -> io::Result<()> {
    File::options().read(true).write(true).open(device).map(drop)
}

/// Each capsule's network card is a TAP device.
pub fn tun(opened: &io::Result<()>) -> Finding {
    match opened {
        Ok(()) => Finding::ok("/dev/net/tun"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::fail(format!("/dev/net/tun: {error}"), "run it with sudo")
        }
        Err(error) => Finding::fail_fixable(format!("/dev/net/tun: {error}"), Fix::Load(&["tun"])),
    }
}

/// A network as each capsule gets one.
pub fn slot(rehearsed: &Result<(), String>) -> Finding {
    match rehearsed {
        Ok(()) => Finding::ok("namespace, TAP, veth, limiter and firewall can be made"),
        // EPERM and EROFS, which no module helps against.
        Err(error) if error.ends_with("(os error 1)") => Finding::fail(error, "run it with sudo"),
        Err(error) if error.ends_with("(os error 30)") => Finding::fail(error, "make /proc/sys and /run writable"),
        Err(error) => Finding::fail_fixable(error, Fix::Load(SLOT_MODULES)),
    }
}

/// Without it no answer of the Internet reaches a capsule. The agent switches it on where it is needed, by interface, and
/// looks again every few seconds.
pub fn forwarding(uplinks: &io::Result<Vec<Uplink>>, running: bool) -> Finding {
    let uplinks = match uplinks {
        Ok(uplinks) => uplinks,
        Err(error) => return Finding::fail(format!("routes cannot be read: {error}"), "mount /proc"),
    };
    let names = |chosen: &[&Uplink]| chosen.iter().map(|uplink| &*uplink.interface).collect::<Vec<_>>().join(", ");
    let off: Vec<_> = uplinks.iter().filter(|uplink| !uplink.forwards).collect();
    let sealed: Vec<_> = off.iter().copied().filter(|uplink| !uplink.switchable).collect();
    let fixes = off.iter().map(|uplink| Fix::Set { file: uplink.setting.clone(), value: 1 });
    if uplinks.is_empty() {
        Finding::warn(
            "no interface leads out: capsules reach nobody",
            "connect this machine, or give it a default route",
        )
    } else if !sealed.is_empty() {
        Finding::fail(
            format!("off on {}, and cannot be switched on here", names(&sealed)),
            "make /proc/sys writable, or set net.ipv4.ip_forward=1 from outside of this container",
        )
    } else if off.is_empty() {
        Finding::ok(format!("on: {}", names(&uplinks.iter().collect::<Vec<_>>())))
    } else if running {
        let commands: Vec<_> = fixes.clone().map(|fix| fix.to_string()).collect();
        Finding::warn(
            format!("off on {}, though a platform runs: something resets it", names(&off)),
            commands.join("; "),
        )
        .fixed_by(fixes)
    } else {
        Finding::ok(format!("off on {}; the agent switches it on", names(&off)))
    }
}

/// Whether iptables-legacy drops what it forwards, where it is in use: nft does not show its rules.
pub fn legacy_drops() -> bool {
    let filters = fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    filters.lines().any(|table| table == "filter")
        && run("iptables-legacy", &["-S", "FORWARD"]).is_ok_and(|rules| legacy_rules_drop(&rules))
}

/// `-P FORWARD DROP`, and no rule of ours.
fn legacy_rules_drop(rules: &str) -> bool {
    rules.lines().any(|rule| rule == "-P FORWARD DROP") && !rules.contains("-i wv+ ")
}

/// Another table's drop cannot be overruled by our accept: every base chain at a hook must let a packet pass.
pub fn egress(obstacles: &Result<Vec<Obstacle>, String>, legacy_drops: bool) -> Finding {
    let mut obstacles = match obstacles {
        Ok(obstacles) => obstacles.clone(),
        Err(error) => return Finding::warn(format!("unknown: {error}"), "install nftables, and run it with sudo"),
    };
    if legacy_drops {
        obstacles.push(Obstacle {
            chain: "iptables-legacy FORWARD".to_owned(),
            command: "iptables-legacy -I FORWARD -i wv+ -j ACCEPT && \
                      iptables-legacy -I FORWARD -o wv+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
                .to_owned(),
        });
    }
    if obstacles.is_empty() {
        return Finding::ok("no other firewall drops what capsules send");
    }
    let list = |part: fn(&Obstacle) -> &str| obstacles.iter().map(part).collect::<Vec<_>>();
    let (chains, commands) = (list(|obstacle| &obstacle.chain), list(|obstacle| &obstacle.command));
    Finding::warn(
        format!("egress_blocked_by_host_firewall: {} drops what no rule accepts", chains.join(", ")),
        commands.join("; "),
    )
    .fixed_by(commands.into_iter().map(|command| Fix::Run(command.to_owned())))
}

/// Whether somebody else's routes lead capsules' packets away.
pub fn addresses(collisions: &io::Result<Vec<String>>) -> Finding {
    match collisions.as_deref() {
        Ok([]) => Finding::ok("no route touches the addresses of capsules' networks"),
        Ok(routes) => Finding::warn(
            format!("routes over the addresses of capsules' networks: {}", routes.join(", ")),
            "remove the route; or, with no capsule running, delete network.json in the data directory: others are chosen",
        ),
        Err(error) => Finding::fail(error.to_string(), "free one of the blocks, or put network.json back as it was"),
    }
}

/// Capsules ask the host's name servers, through the agent.
pub fn dns(resolvers: Option<&[(String, Option<String>)]>) -> Finding {
    let Some(resolvers) = resolvers else { return Finding::ok("not asked") };
    let names = |answers: bool| {
        let chosen = resolvers.iter().filter(move |(_, error)| error.is_none() == answers);
        chosen.map(|(name, error)| match error {
            Some(error) => format!("{name} ({error})"),
            None => name.clone(),
        })
    };
    let (good, bad): (Vec<_>, Vec<_>) = (names(true).collect(), names(false).collect());
    let remedy = "name one that answers in /etc/resolv.conf; capsules use it at once";
    match (good.as_slice(), bad.as_slice()) {
        (good, []) if !good.is_empty() => Finding::ok(format!("{} answers", good.join(", "))),
        ([], bad) => Finding::warn(format!("no name server answers: {}", bad.join(", ")), remedy),
        (good, bad) => Finding::warn(
            format!("{} answers, {} does not: names take seconds", good.join(", "), bad.join(", ")),
            remedy,
        ),
    }
}

/// Whether the API could listen.
#[derive(Debug)]
pub enum Port {
    /// It could.
    Free,
    /// A platform of this data directory does.
    Ours,
    /// It could not; who has the port, if that can be seen.
    Taken(io::Error, Option<String>),
}

impl Port {
    /// Listens for a moment.
    pub fn probe(listen: SocketAddr, running: bool) -> Self {
        if running {
            return Self::Ours;
        }
        match TcpListener::bind(listen) {
            Ok(_) => Self::Free,
            Err(error) => Self::Taken(error, holder(listen.port())),
        }
    }
}

/// The API's address.
pub fn port(listen: SocketAddr, port: &Port) -> Finding {
    match port {
        Port::Free => Finding::ok(format!("{listen} is free")),
        Port::Ours => Finding::ok(format!("{listen}: a platform of this data directory is running")),
        Port::Taken(error, holder) => {
            let found = match holder {
                Some(holder) if error.kind() == io::ErrorKind::AddrInUse => format!("{listen} is in use by {holder}"),
                _ => format!("{listen}: {error}"),
            };
            Finding::fail(found, "choose another with --listen 127.0.0.1:PORT")
        }
    }
}

/// Name and id of a process that listens on this TCP port: `/proc/net/tcp` has the socket's inode, proc(5), and the
/// process's descriptors link to it.
fn holder(port: u16) -> Option<String> {
    let tables = ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")));
    let tables = tables.map(Result::unwrap_or_default).concat();
    let inodes: Vec<_> = tables.lines().filter_map(|line| listener_inode(line, port)).collect();
    let holds = |process: &Path| {
        let descriptors = fs::read_dir(process.join("fd")).ok()?;
        let mut links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.any(|link| inodes.iter().any(|inode| link.as_os_str() == inode.as_str())).then_some(())
    };
    fs::read_dir("/proc").ok()?.filter_map(Result::ok).find_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        holds(&entry.path())?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some(format!("{} (process {id})", name.trim()))
    })
}

/// `socket:[INODE]` of a line of `/proc/net/tcp`, if it is a socket that listens (state 0A) on the port.
fn listener_inode(line: &str, port: u16) -> Option<String> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields.as_slice() else { return None };
    let (_, number) = local.rsplit_once(':')?;
    (u16::from_str_radix(number, 16) == Ok(port)).then(|| format!("socket:[{inode}]"))
}

#[cfg(test)]
mod tests {
    use super::super::check::Verdict::{self, Fail, Ok as Fine, Warn};
    use super::super::lab::{on_a_host, sh};
    use super::super::{Plan, host};
    use super::*;

    #[test]
    fn tools_and_devices() {
        let refused = |kind: io::ErrorKind| io::Error::from(kind);
        assert_eq!(nft(&Ok("nftables v1.0.6".to_owned())).verdict, Fine);
        assert_eq!(nft(&Err(refused(io::ErrorKind::NotFound))).found, "nft is not installed");
        assert_eq!(nft(&Err(io::Error::other("Operation not permitted (you must be root)"))).fixes, []);
        assert_eq!(nft(&Err(io::Error::other("Protocol not supported"))).fixes, [Fix::Load(&["nf_tables"])]);
        let dir = tempfile::tempdir().unwrap();
        let missing = tun(&open_tun(&dir.path().join("tun")));
        assert_eq!((missing.verdict, missing.remedy.as_deref()), (Fail, Some("modprobe -a tun")));
        assert_eq!(tun(&Err(refused(io::ErrorKind::PermissionDenied))).fixes, []);
        assert_eq!(slot(&Ok(())).verdict, Fine);
        for (error, fixes) in [("no TAP (os error 2)", 1), ("not by you (os error 1)", 0), ("sealed (os error 30)", 0)]
        {
            let finding = slot(&Err(error.to_owned()));
            assert_eq!((finding.verdict, finding.fixes.len()), (Fail, fixes), "{error}");
        }
    }

    fn uplink(interface: &str, forwards: bool, switchable: bool) -> Uplink {
        Uplink { interface: interface.to_owned(), forwards, switchable, setting: format!("/{interface}").into() }
    }

    #[test]
    fn forwarding_is_needed_where_a_way_leads_out() {
        let (on, off, sealed) = (uplink("a", true, true), uplink("b", false, true), uplink("c", false, false));
        let rows: [(&[&Uplink], _, Verdict, &str, usize); 6] = [
            (&[], false, Warn, "no interface leads out: capsules reach nobody", 0),
            (&[&on], false, Fine, "on: a", 0),
            (&[&on, &off], false, Fine, "off on b; the agent switches it on", 0),
            (&[&on, &off], true, Warn, "off on b, though a platform runs: something resets it", 1),
            (&[&off, &sealed], false, Fail, "off on c, and cannot be switched on here", 0),
            (&[&uplink("c", true, false)], true, Fine, "on: c", 0),
        ];
        for (uplinks, running, verdict, found, fixes) in rows {
            let finding = forwarding(&Ok(uplinks.iter().copied().cloned().collect()), running);
            assert_eq!((finding.verdict, &*finding.found, finding.fixes.len()), (verdict, found, fixes));
        }
        assert_eq!(forwarding(&Err(io::ErrorKind::NotFound.into()), false).verdict, Fail);
    }

    /// A host with one interface that leads out.
    const CONNECTED: &str = "ip link add up0 type veth peer name net0 && ip addr add 203.0.113.1/24 dev up0 && \
                             ip link set up0 up && ip route add default via 203.0.113.2";

    #[test]
    fn forwarding_that_was_switched_off_is_switched_on() {
        on_a_host(async || {
            assert_eq!(forwarding(&host::uplinks(), true).verdict, Warn);
            sh(CONNECTED);
            sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
            let finding = forwarding(&host::uplinks(), true);
            assert_eq!(finding.remedy.as_deref(), Some("sysctl -w net/ipv4/conf/up0/forwarding=1"));
            for fix in finding.fixes {
                fix.apply().unwrap();
            }
            assert_eq!(forwarding(&host::uplinks(), true).found, "on: up0");
        });
    }

    #[test]
    fn a_firewall_in_the_way_is_told_and_opened_once() {
        on_a_host(async || {
            let dir = tempfile::tempdir().unwrap();
            let plan = Plan { dir: dir.path().to_owned(), ..Plan::default() };
            let look = async || egress(&host::firewalls(&plan).await, false);
            assert_eq!(look().await.verdict, Fine);
            sh(
                "nft 'add table inet mine; add chain inet mine f { type filter hook forward priority 0; policy drop; }'",
            );
            // Before the first start there is no instance, and so no names of its own.
            let finding = look().await;
            assert_eq!(finding.found, "egress_blocked_by_host_firewall: inet mine f drops what no rule accepts");
            assert!(finding.remedy.as_ref().is_some_and(|remedy| remedy.contains("wv*")), "{finding:?}");
            fs::write(dir.path().join("instance"), "abc").unwrap();
            let finding = look().await;
            assert!(finding.remedy.as_ref().is_some_and(|remedy| remedy.contains("wvabc-*")), "{finding:?}");
            for fix in finding.fixes {
                fix.apply().unwrap();
            }
            assert_eq!(look().await.verdict, Fine);
            assert_eq!(sh("nft list ruleset").matches("wvabc-*").count(), 2);
        });
    }

    #[test]
    fn firewalls() {
        let obstacle = |name: &str| Obstacle { chain: format!("ip {name} FORWARD"), command: format!("open {name}") };
        let finding = egress(&Ok(vec![obstacle("a"), obstacle("b")]), false);
        assert_eq!((finding.verdict, finding.remedy.as_deref()), (Warn, Some("open a; open b")));
        assert_eq!(finding.fixes, [Fix::Run("open a".to_owned()), Fix::Run("open b".to_owned())]);
        assert_eq!(egress(&Ok(Vec::new()), true).fixes.len(), 1);
        assert_eq!(egress(&Err("nft is not installed".to_owned()), false).verdict, Warn);
        for (rules, drops) in [
            ("-P FORWARD ACCEPT\n", false),
            ("-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n", true),
            ("-P FORWARD DROP\n-A FORWARD -i wv+ -j ACCEPT\n", false),
        ] {
            assert_eq!(legacy_rules_drop(rules), drops, "{rules}");
        }
    }

    #[test]
    fn an_address_that_somebody_else_routes_collides() {
        on_a_host(async || {
            sh(CONNECTED);
            let dir = tempfile::tempdir().unwrap();
            let plan = Plan { dir: dir.path().to_owned(), ..Plan::default() };
            let look = || addresses(&host::collisions(&plan));
            assert_eq!(look().verdict, Fine);
            fs::write(dir.path().join("instance"), "abc").unwrap();
            fs::write(dir.path().join("network.json"), r#"{"range":"240.1.0.0/17"}"#).unwrap();
            assert_eq!(look().verdict, Fine);
            sh("ip route add 240.1.2.0/24 via 203.0.113.2");
            let finding = look();
            assert_eq!(finding.verdict, Warn);
            assert!(finding.found.ends_with("240.1.2.0/24 dev up0"), "{finding:?}");
            // Without a range of its own another is found; when all are taken there is none.
            fs::remove_file(dir.path().join("network.json")).unwrap();
            assert_eq!(look().verdict, Fine);
            sh("ip route add 240.0.0.0/4 via 203.0.113.2");
            assert_eq!(look().verdict, Fail);
        });
    }

    #[test]
    fn name_servers() {
        let good = |name: &str| (name.to_owned(), None);
        let bad = |name: &str| (name.to_owned(), Some("silent".to_owned()));
        for (resolvers, verdict) in
            [(vec![good("a")], Fine), (vec![good("a"), bad("b")], Warn), (vec![bad("a")], Warn), (vec![], Warn)]
        {
            assert_eq!(dns(Some(&resolvers)).verdict, verdict, "{resolvers:?}");
        }
        assert_eq!(dns(None).verdict, Fine);
    }

    #[test]
    fn without_a_network_no_name_server_answers() {
        on_a_host(async || {
            let plan = Plan { thorough: true, ..Plan::default() };
            let finding = dns(host::resolvers(&plan).await.as_deref());
            assert_eq!(finding.verdict, Warn);
            assert!(finding.found.starts_with("no name server answers: "), "{finding:?}");
        });
    }

    #[test]
    fn a_taken_port_names_its_holder() {
        on_a_host(async || {
            sh("ip link set lo up");
            // Two ports: a process that another test starts holds our descriptors up to its `exec`.
            let [free, taken] = [1, 2].map(|number| SocketAddr::from(([127, 0, 0, 1], number)));
            assert_eq!(port(free, &Port::probe(free, false)).verdict, Fine);
            let _listener = TcpListener::bind(taken).unwrap();
            let finding = port(taken, &Port::probe(taken, false));
            assert_eq!(finding.verdict, Fail);
            assert!(finding.found.starts_with("127.0.0.1:2 is in use by "), "{finding:?}");
            assert_eq!(port(taken, &Port::probe(taken, true)).verdict, Fine);
        });
    }
}
