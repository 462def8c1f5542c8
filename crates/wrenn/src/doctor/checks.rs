//! The checks, in the order in which they are shown.

use super::check::{Check, Examination};
use super::fix::PROC_SYS;
use super::{host, limits, machine, network, programs, storage};
use std::future::ready;
use std::path::Path;

/// Every check.
pub const CHECKS: &[Check] = &[
    Check {
        name: "privileges",
        about: "rights of this process",
        warns: "",
        fails: "no CAP_SYS_ADMIN or CAP_NET_ADMIN",
        examine: |_| now(machine::privileges(machine::capabilities())),
    },
    Check {
        name: "packages",
        about: "programs the platform calls",
        warns: "",
        fails: "one is missing; `wrenn up` installs them",
        examine: |_| now(programs::packages(&programs::missing())),
    },
    Check {
        name: "kernel",
        about: "version, pagemap (for pauses), userfaultfd (for memory brought page by page)",
        warns: "older than 6.1, no userfaultfd",
        fails: "no pagemap",
        examine: |_| now(machine::kernel(&machine::Kernel::running())),
    },
    Check {
        name: "firecracker",
        about: "version; it is optional",
        warns: "older than 1.16.1: it is not used",
        fails: "missing or older, and asked for by WRENN_VMM or WRENN_FIRECRACKER",
        examine: |plan| {
            Box::pin(async {
                let demanded = plan.vmm.choice == agent::VmmChoice::Firecracker || plan.vmm.firecracker.is_some();
                machine::firecracker(&host::vmm(plan).await.firecracker, demanded)
            })
        },
    },
    Check {
        name: "qemu",
        about: "version",
        warns: "",
        fails: "missing, or older than 7.2, and Firecracker does not run guests here",
        examine: |plan| Box::pin(async { machine::qemu(&host::vmm(plan).await) }),
    },
    Check {
        name: "isolation",
        about: "what capsules run on, and whether a guest really boots with KVM: as remembered since the machine booted, \
                else tried (up to ten seconds for each VMM) once `wrenn up` has made a kernel",
        warns: "no KVM, or none that a guest boots with: capsules are emulated",
        fails: "",
        examine: |plan| {
            Box::pin(async {
                let tier = host::vmm(plan).await.tier;
                machine::isolation(&machine::Virtualisation::look(Path::new("/dev/kvm"), tier))
            })
        },
    },
    Check {
        name: "memory",
        about: "available memory, overcommit",
        warns: "less than 2 GiB, `vm.overcommit_memory` = 2",
        fails: "",
        examine: |_| now(machine::memory(&machine::Memory::here())),
    },
    Check {
        name: "cgroups",
        about: "version of control groups; controllers memory, cpu, pids",
        warns: "version 1, or one is missing",
        fails: "",
        examine: |_| now(machine::cgroups(&machine::Cgroups::at(Path::new("/sys/fs/cgroup")))),
    },
    Check {
        name: "clock",
        about: "whether it was set, is kept right, and is quick to read",
        warns: "not synchronised, slow clock source",
        fails: "never set",
        examine: |_| now(machine::clock(&machine::Clock::here())),
    },
    Check {
        name: "open_files",
        about: "descriptors a process may have, `RLIMIT_NOFILE`, hard; the platform raises the soft one by itself",
        warns: "fewer than 4,096",
        fails: "fewer than 256",
        examine: |_| now(limits::open_files(limits::open_files_max())),
    },
    Check {
        name: "inotify",
        about: "instances for watching files, for tools beside the platform",
        warns: "fewer than 128 for each user, or none left",
        fails: "",
        examine: |_| now(limits::inotify(&limits::Inotify::read(Path::new(PROC_SYS)))),
    },
    Check {
        name: "conntrack",
        about: "the host's table of flows, which all capsules share",
        warns: "room for fewer than 32 capsules that use all they may (4,096 flows), or 80 % full",
        fails: "",
        examine: |_| now(limits::conntrack(limits::Conntrack::read(Path::new(PROC_SYS)).as_ref())),
    },
    Check {
        name: "nftables",
        about: "version; whether the kernel answers",
        warns: "",
        fails: "missing or refused",
        examine: |_| now(network::nft(&network::nft_version())),
    },
    Check {
        name: "tun",
        about: "`/dev/net/tun`",
        warns: "",
        fails: "cannot be opened",
        examine: |_| now(network::tun(&network::open_tun(Path::new("/dev/net/tun")))),
    },
    Check {
        name: "slot",
        about: "a capsule's network, made and removed unseen: namespace, TAP, veth, limiter (`sch_tbf`), firewall",
        warns: "",
        fails: "it cannot be made",
        examine: |_| Box::pin(async { network::slot(&host::rehearse_network().await) }),
    },
    Check {
        name: "ip_forward",
        about: "forwarding on the interfaces that lead out; the agent switches it on",
        warns: "no such interface, or off while a platform runs",
        fails: "cannot be switched on",
        examine: |plan| now(network::forwarding(&host::uplinks(), plan.running)),
    },
    Check {
        name: "egress",
        about: "chains of Docker, ufw, firewalld, iptables-legacy and others that drop what capsules send",
        warns: "`egress_blocked_by_host_firewall`",
        fails: "",
        examine: |plan| Box::pin(async { network::egress(&host::firewalls(plan).await, network::legacy_drops()) }),
    },
    Check {
        name: "addresses",
        about: "routes of others over the addresses of capsules' networks",
        warns: "there are some",
        fails: "no block of addresses is free",
        examine: |plan| now(network::addresses(&host::collisions(plan))),
    },
    Check {
        name: "dns",
        about: "whether the host's name servers, which capsules use, answer",
        warns: "one does not",
        fails: "",
        examine: |plan| Box::pin(async { network::dns(host::resolvers(plan).await.as_deref()) }),
    },
    Check {
        name: "port",
        about: "the API's address",
        warns: "",
        fails: "taken; says by whom",
        examine: |plan| now(network::port(plan.listen, &network::Port::probe(plan.listen, plan.running))),
    },
    Check {
        name: "directory",
        about: "the data directory",
        warns: "others may enter it, or it is gone after a reboot (tmpfs)",
        fails: "its path is too long for sockets below it",
        examine: |plan| now(storage::directory(&storage::Directory::look(&plan.dir))),
    },
    Check {
        name: "clones",
        about: "whether disks are cloned without copying: reflinks (XFS, btrfs), else a pool file",
        warns: "they are copied",
        fails: "",
        examine: |plan| now(storage::clones(&storage::Cloning::look(&plan.dir))),
    },
    Check {
        name: "space",
        about: "free space and files under the data directory",
        warns: "less than 10 GiB, fewer than 50,000 files",
        fails: "less than 4 GiB",
        examine: |plan| now(storage::space(&storage::Space::look(&plan.dir))),
    },
    Check {
        name: "saved",
        about: "paused capsules whose memory cannot be loaded: of another VMM, processor or guest kernel, or damaged",
        warns: "there are some",
        fails: "",
        examine: |plan| now(storage::saved(&host::unloadable(plan))),
    },
];

/// A finding that takes no waiting.
fn now(finding: super::Finding) -> Examination<'static> {
    Box::pin(ready(finding))
}
