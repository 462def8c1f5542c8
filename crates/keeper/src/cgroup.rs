//! Control groups for VMMs: version 2 where its controllers are, else one hierarchy per controller (version 1).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// File of a group that lists and takes processes, in both versions.
const PROCS: &str = "cgroup.procs";

const ROOT: &str = "/sys/fs/cgroup";
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Period of the CPU limit, the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// The group of a VMM to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupSpec {
    /// Group of all VMMs of an installation.
    pub parent: String,
    /// Nobody else's name in it.
    pub name: String,
    /// What the VMM may use.
    pub limits: Limits,
}

/// What a group may use; none = no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, page cache included.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a CPU.
    pub cpu_milli: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// A group: one directory on version 2, one per controller on version 1.
#[derive(Debug)]
pub(crate) struct Cgroup {
    dirs: Vec<PathBuf>,
}

/// A limit this host cannot set.
#[derive(Debug, thiserror::Error)]
#[error("no limit of {controller}: {source}")]
pub(crate) struct Unlimited {
    controller: &'static str,
    source: io::Error,
}

impl CgroupSpec {
    /// Makes the group and puts a process into it. What cannot be limited here is reported, not refused: a guest without a
    /// limit is better than none.
    pub(crate) fn join(&self, pid: u32) -> (Cgroup, Vec<Unlimited>) {
        let mut group = Cgroup { dirs: Vec::new() };
        let mut unlimited = Vec::new();
        let unified = is_unified();
        for controller in CONTROLLERS {
            let dir = hierarchy(controller, unified).join(&self.parent).join(&self.name);
            let joined = prepare(&dir, controller, unified)
                .and_then(|()| self.limits.set(&dir, controller, unified))
                .and_then(|()| fs::write(dir.join(PROCS), pid.to_string()));
            if let Err(source) = joined {
                unlimited.push(Unlimited { controller, source });
            }
            if !group.dirs.contains(&dir) {
                group.dirs.push(dir);
            }
        }
        (group, unlimited)
    }

    /// Removes the group; refused ([`io::ErrorKind::ResourceBusy`]) while there is a process in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        parents(&self.parent).iter().try_for_each(|parent| remove(&parent.join(&self.name)))
    }
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Cgroup {
    /// Removes the group of a process that has ended, with whatever it has left in there, and tells whether the kernel killed it for want of memory.
    pub(crate) fn end(self) -> bool {
        let oom = oom_kills(&self.dirs) > 0;
        for dir in &self.dirs {
            kill(dir);
            // What cannot be removed is found by the next sweep.
            let _ = fs::remove_dir(dir);
        }
        oom
    }
}

/// A VMM starts no processes; one that has fallen to its guest may have.
fn kill(dir: &Path) {
    if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let left = fs::read_to_string(dir.join(PROCS)).unwrap_or_default();
    for pid in left.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Names of the groups in `parent` that still exist, after an attempt to remove those without a process.
pub fn sweep(parent: &str) -> BTreeSet<String> {
    let mut left = BTreeSet::new();
    for parent in parents(parent) {
        let Ok(entries) = fs::read_dir(&parent) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            // The kernel refuses while there are processes in it (EBUSY).
            if fs::remove_dir(entry.path()).is_err() {
                left.insert(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    left
}

/// Removes the group of all VMMs of an installation, once it has none any more.
pub fn remove_parent(parent: &str) -> io::Result<()> {
    sweep(parent);
    parents(parent).iter().try_for_each(|dir| remove(dir))
}

fn parents(parent: &str) -> BTreeSet<PathBuf> {
    let unified = is_unified();
    CONTROLLERS.iter().map(|controller| hierarchy(controller, unified).join(parent)).collect()
}

fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

fn hierarchy(controller: &str, unified: bool) -> PathBuf {
    if unified { PathBuf::from(ROOT) } else { Path::new(ROOT).join(controller) }
}

/// On version 2 a controller has to be handed down from the root. A hierarchy that is not mounted is not made up.
fn prepare(dir: &Path, controller: &str, unified: bool) -> io::Result<()> {
    let hierarchy = hierarchy(controller, unified);
    fs::metadata(hierarchy.join(PROCS))?;
    fs::create_dir_all(dir)?;
    if unified {
        for above in above(dir, &hierarchy) {
            fs::write(above.join("cgroup.subtree_control"), format!("+{controller}"))?;
        }
    }
    Ok(())
}

/// From the hierarchy's root to the group's parent: a group hands down what was handed to it.
fn above<'a>(dir: &'a Path, hierarchy: &Path) -> Vec<&'a Path> {
    let mut above: Vec<&Path> = dir.ancestors().skip(1).take_while(|above| above.starts_with(hierarchy)).collect();
    above.reverse();
    above
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
fn oom_kills(dirs: &[PathBuf]) -> u64 {
    dirs.iter()
        .flat_map(|dir| ["memory.events", "memory.oom_control"].map(|file| dir.join(file)))
        .filter_map(|path| count(&path))
        .sum()
}

/// Both versions have a line `oom_kill N`.
fn count(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_handed_down_from_the_root() {
        let found = above(Path::new("/sys/fs/cgroup/wrenn-a/vm"), Path::new(ROOT));
        assert_eq!(found, [Path::new(ROOT), Path::new("/sys/fs/cgroup/wrenn-a")]);
    }
}
