//! Control groups of user processes: a share of the machine that leaves room for the daemon, and a switch that
//! stops them all at once.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::limits;

/// Which group a process belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Processes with a terminal.
    Pty,
    /// All others.
    User,
}

impl Group {
    const ALL: [Self; 2] = [Self::Pty, Self::User];

    fn name(self) -> &'static str {
        match self {
            Self::Pty => "pty",
            Self::User => "user",
        }
    }

    /// Relative share of the processor; the daemon has the default, 100.
    fn cpu_weight(self) -> &'static str {
        match self {
            Self::Pty => "200",
            Self::User => "50",
        }
    }
}

/// The tree `wrenn/{pty,user}` below the cgroup v2 mount, or nothing where there is none.
#[derive(Debug)]
pub struct Cgroups {
    root: Option<PathBuf>,
}

impl Cgroups {
    /// Sets the tree up. Without cgroup v2, or without the right to write there, processes run ungrouped.
    pub fn set_up(mount: &Path) -> Self {
        let root = mount.join("wrenn");
        match build(mount, &root) {
            Ok(()) => Self { root: Some(root) },
            Err(error) => {
                tracing::warn!(%error, "processes run without control groups");
                Self { root: None }
            }
        }
    }

    /// No groups at all.
    pub fn none() -> Self {
        Self { root: None }
    }

    /// The file a child writes itself into to join `group`.
    pub fn procs(&self, group: Group) -> Option<OwnedFd> {
        let path = self.root.as_ref()?.join(group.name()).join("cgroup.procs");
        OpenOptions::new().write(true).open(path).map(Into::into).ok()
    }

    /// Has the kernel stop every process of both groups.
    pub fn freeze(&self) {
        self.write_freeze("1");
    }

    /// Returns when they stand still, or after half a second.
    pub async fn frozen(&self) {
        let Some(root) = &self.root else { return };
        let deadline = Instant::now() + limits::FREEZING;
        while !is_frozen(root) {
            if Instant::now() > deadline {
                tracing::warn!("user processes did not freeze in time");
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Lets them run again.
    pub fn thaw(&self) {
        self.write_freeze("0");
    }

    fn write_freeze(&self, value: &str) {
        let Some(root) = &self.root else { return };
        // What is below freezes and thaws with it (cgroup-v2, "cgroup.freeze").
        if let Err(error) = fs::write(root.join("cgroup.freeze"), value) {
            tracing::warn!(%error, "cgroup.freeze");
        }
    }
}

fn build(mount: &Path, root: &Path) -> io::Result<()> {
    // One controller at a time: a single write with an unavailable one enables none (cgroup-v2, "Enabling").
    File::open(mount.join("cgroup.controllers"))?;
    fs::create_dir_all(root)?;
    for directory in [mount, root] {
        for controller in ["+cpu", "+memory", "+io", "+pids"] {
            let _ = fs::write(directory.join("cgroup.subtree_control"), controller);
        }
    }
    // Whatever an earlier daemon left frozen.
    let _ = fs::write(root.join("cgroup.freeze"), "0");
    for group in Group::ALL {
        let directory = root.join(group.name());
        fs::create_dir_all(&directory)?;
        let _ = fs::write(directory.join("cpu.weight"), group.cpu_weight());
        let _ = fs::write(directory.join("memory.high"), memory_high().unwrap_or_else(|| "max".into()));
        OpenOptions::new().write(true).open(directory.join("cgroup.procs"))?;
    }
    Ok(())
}

/// All memory but an eighth, or but 128 MiB where that is less.
fn memory_high() -> Option<String> {
    use procfs::Current as _;
    let total = procfs::Meminfo::current().ok()?.mem_total;
    Some((total - (total / 8).min(128 << 20)).to_string())
}

fn is_frozen(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events")).is_ok_and(|events| events.contains("frozen 1"))
}
