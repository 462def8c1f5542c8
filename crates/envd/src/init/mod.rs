//! PID 1 of a guest: from the initramfs to a running daemon, and from then on its supervisor.
//!
//! Tiny and synchronous. Nothing here may panic or return: the kernel panics when PID 1 ends. A step that fails is
//! reported on the console and the next one is tried, unless nothing can work without it; then the machine is
//! powered off, which the host sees at once.

mod console;
mod mounts;
mod network;
mod root;
mod supervise;

use console::Console;

/// Where the daemon's binary lives once the root has been switched: a tmpfs, so a root file system needs nothing of
/// ours, and a full or broken disk does not stop the daemon.
const DAEMON: &str = "/run/wrenn/envd";
/// Mount point of cgroup v2.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Boots the guest and supervises the daemon for ever.
pub fn run() -> ! {
    let mut console = Console::new();
    mounts::early(&mut console);
    // /dev is there now.
    console.open();
    if let Err(failure) = root::switch(&mut console) {
        console.fatal(&failure);
    }
    mounts::late(&mut console);
    network::configure(&mut console);
    console.boot_ended();
    supervise::run(&mut console)
}
