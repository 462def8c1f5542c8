//! Control groups for VMMs: version 2 where its controllers are, else one hierarchy per controller (version 1).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// File of a group that lists and takes processes, in both versions.
pub(crate) const PROCS: &str = "cgroup.procs";

const ROOT: &str = "/sys/fs/cgroup";
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Period of the CPU limit, the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// What a group may use; none = no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory, page cache included.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a CPU.
    pub cpu_milli: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// A group: one directory on version 2, one per controller on version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    dirs: Vec<PathBuf>,
}

/// A limit this host cannot set, and why.
#[derive(Debug)]
pub struct Unlimited {
    /// `memory`, `cpu` or `pids`.
    pub controller: &'static str,
    /// Why not.
    pub source: io::Error,
}

impl Cgroup {
    /// Makes the group `parent/name`, or takes it over, and sets `limits`. What cannot be limited here is reported, not refused:
    /// a guest without a limit is better than none.
    pub fn create(parent: &str, name: &str, limits: &Limits) -> (Self, Vec<Unlimited>) {
        let mut group = Self { dirs: Vec::new() };
        let mut unlimited = Vec::new();
        let root = Path::new(ROOT);
        let unified = root.join("cgroup.controllers").exists();
        for controller in CONTROLLERS {
            let base = if unified { root.to_owned() } else { root.join(controller) };
            let dir = base.join(parent).join(name);
            let made = prepare(&base, parent, controller, unified).and_then(|()| fs::create_dir_all(&dir));
            let limited = made.and_then(|()| {
                if !group.dirs.contains(&dir) {
                    group.dirs.push(dir.clone());
                }
                limits.set(&dir, controller, unified)
            });
            if let Err(source) = limited {
                unlimited.push(Unlimited { controller, source });
            }
        }
        (group, unlimited)
    }

    /// The directories a VMM has to join, for [`crate::KeeperSpec::cgroups`].
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Processes in it.
    pub fn pids(&self) -> Vec<u32> {
        let lists = self.dirs.iter().filter_map(|dir| fs::read_to_string(dir.join(PROCS)).ok());
        let mut pids: Vec<u32> =
            lists.flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Removes it; fails while there are processes in it.
    pub fn remove(&self) -> io::Result<()> {
        for dir in &self.dirs {
            match fs::remove_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// On version 2 a controller has to be handed down from the root.
fn prepare(base: &Path, parent: &str, controller: &str, unified: bool) -> io::Result<()> {
    fs::create_dir_all(base.join(parent))?;
    if unified {
        for dir in [base.to_owned(), base.join(parent)] {
            fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"))?;
        }
    }
    Ok(())
}

impl Limits {
    fn set(&self, dir: &Path, controller: &str, unified: bool) -> io::Result<()> {
        let quota = self.cpu_milli.map(|milli| milli * CPU_PERIOD_US / 1000);
        let (file, value) = match (controller, unified) {
            ("memory", true) => ("memory.max", self.memory_bytes.map(|bytes| bytes.to_string())),
            ("memory", false) => ("memory.limit_in_bytes", self.memory_bytes.map(|bytes| bytes.to_string())),
            ("cpu", true) => ("cpu.max", quota.map(|quota| format!("{quota} {CPU_PERIOD_US}"))),
            ("cpu", false) => ("cpu.cfs_quota_us", quota.map(|quota| quota.to_string())),
            _ => ("pids.max", self.pids.map(|pids| pids.to_string())),
        };
        value.map_or(Ok(()), |value| fs::write(dir.join(file), value))
    }
}

/// Processes of these groups the kernel has killed for want of memory, so far.
pub(crate) fn oom_kills(dirs: &[PathBuf]) -> u64 {
    dirs.iter()
        .flat_map(|dir| ["memory.events", "memory.oom_control"].map(|file| dir.join(file)))
        .filter_map(|path| count(&path))
        .sum()
}

/// Both versions have a line `oom_kill N`.
fn count(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}
