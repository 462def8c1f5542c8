//! Control groups of user processes: a share of the machine that leaves room for the daemon, and a switch that
//! stops them all at once.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Which group a process belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Processes with a terminal.
    Pty,
    /// All others.
    User,
}

impl Group {
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

    /// Its directory, and the file that lists its processes.
    fn build(self, root: &Path) -> io::Result<File> {
        let directory = root.join(self.name());
        fs::create_dir_all(&directory)?;
        let _ = fs::write(directory.join("cpu.weight"), self.cpu_weight());
        let _ = fs::write(directory.join("memory.high"), memory_high().unwrap_or_else(|| "max".into()));
        for_writing(&directory.join("cgroup.procs"))
    }
}

/// The tree `wrenn/{pty,user}` below the cgroup v2 mount, or nothing where there is none.
#[derive(Debug)]
pub struct Cgroups(Option<Tree>);

/// Its files, open: they are used while somebody waits.
#[derive(Debug)]
struct Tree {
    freeze: File,
    events: File,
    pty: File,
    user: File,
}

impl Cgroups {
    /// Sets the tree up. Without cgroup v2, or without the right to write there, processes run ungrouped.
    pub fn set_up(mount: &Path) -> Self {
        match Tree::build(mount, &mount.join("wrenn")) {
            Ok(tree) => Self(Some(tree)),
            Err(error) => {
                tracing::warn!(%error, "processes run without control groups");
                Self::none()
            }
        }
    }

    /// No groups at all.
    pub fn none() -> Self {
        Self(None)
    }

    /// The file a child writes itself into to join `group`.
    pub fn procs(&self, group: Group) -> Option<OwnedFd> {
        let tree = self.0.as_ref()?;
        let procs = match group {
            Group::Pty => &tree.pty,
            Group::User => &tree.user,
        };
        procs.try_clone().map(Into::into).ok()
    }

    /// Has the kernel stop every process of both groups.
    pub fn freeze(&self) {
        self.write_freeze(b"1");
    }

    /// Returns when they stand still, or after `patience`; false then. Without groups there is nothing that could.
    pub async fn frozen(&self, patience: Duration) -> bool {
        let Some(tree) = &self.0 else { return true };
        let deadline = Instant::now() + patience;
        while !tree.is_frozen() {
            if Instant::now() > deadline {
                tracing::warn!("user processes did not freeze in time");
                return false;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        true
    }

    /// Lets them run again.
    pub fn thaw(&self) {
        self.write_freeze(b"0");
    }

    /// Whether one of them exists.
    pub fn populated(&self) -> bool {
        self.0.as_ref().is_some_and(|tree| tree.says("populated 1"))
    }

    fn write_freeze(&self, value: &[u8]) {
        let Some(tree) = &self.0 else { return };
        // What is below freezes and thaws with it (cgroup-v2, "cgroup.freeze").
        if let Err(error) = tree.freeze.write_all_at(value, 0) {
            tracing::warn!(%error, "cgroup.freeze");
        }
    }
}

impl Tree {
    fn build(mount: &Path, root: &Path) -> io::Result<Self> {
        // One controller at a time: a single write with an unavailable one enables none (cgroup-v2, "Enabling").
        File::open(mount.join("cgroup.controllers"))?;
        fs::create_dir_all(root)?;
        for directory in [mount, root] {
            for controller in ["+cpu", "+memory", "+io", "+pids"] {
                let _ = fs::write(directory.join("cgroup.subtree_control"), controller);
            }
        }
        let freeze = for_writing(&root.join("cgroup.freeze"))?;
        // Whatever an earlier daemon left frozen.
        let _ = freeze.write_all_at(b"0", 0);
        Ok(Self {
            freeze,
            events: File::open(root.join("cgroup.events"))?,
            pty: Group::Pty.build(root)?,
            user: Group::User.build(root)?,
        })
    }

    fn is_frozen(&self) -> bool {
        self.says("frozen 1")
    }

    /// A line of `cgroup.events` (cgroup-v2, "Core Interface Files").
    fn says(&self, line: &str) -> bool {
        let mut events = [0; 256];
        let length = self.events.read_at(&mut events, 0).unwrap_or_default();
        let text = events.get(..length).and_then(|events| std::str::from_utf8(events).ok());
        text.is_some_and(|events| events.lines().any(|said| said == line))
    }
}

fn for_writing(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

/// All memory but an eighth, or but 128 MiB where that is less.
fn memory_high() -> Option<String> {
    use procfs::Current as _;
    let total = procfs::Meminfo::current().ok()?.mem_total;
    Some((total - (total / 8).min(128 << 20)).to_string())
}
