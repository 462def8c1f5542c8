//! What a platform has on its host.

use crate::Verdict;
use crate::platform::Platform;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use sys::spawn::Spawn;

/// What is kept of capsules: records, saved memory, snapshots.
pub fn saved(dir: &Path) -> BTreeSet<String> {
    ["capsules", "generations", "snapshots"].iter().flat_map(|part| entries(&dir.join("pool").join(part))).collect()
}

/// Returns once that is what it was; an error when it does not become so. What was on its way out may be gone.
pub async fn saved_again(dir: &Path, before: &BTreeSet<String>) -> Verdict {
    let leaves = |path: &&String| path.contains("/.draft-");
    for _ in 0..300 {
        let now = saved(dir);
        if now.is_subset(before) && before.difference(&now).all(|path| leaves(&path)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("left behind: {:?}", saved(dir).symmetric_difference(before).collect::<Vec<_>>()).into())
}

/// Everything that a destroyed capsule, or a platform that is down, must not leave behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Footprint {
    processes: BTreeSet<String>,
    links: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    groups: BTreeSet<String>,
    rules: BTreeSet<String>,
    mounts: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Footprint {
    /// Links, namespaces and tables that carry the instance's name.
    fn of_instance(instance: &str) -> Self {
        let names = |dir: &str| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
            names.filter(|name| name.contains(instance)).collect()
        };
        Self {
            links: names("/sys/class/net"),
            namespaces: names("/run/netns"),
            groups: groups(instance),
            rules: lines("nft", &["list", "tables"]).into_iter().filter(|line| line.contains(instance)).collect(),
            ..Self::default()
        }
    }

    /// All of it for one platform, once nothing has changed for a while: freeing goes on in the background, and network
    /// slots are kept some seconds for the next capsule.
    pub async fn settled(dir: &Path, instance: &str) -> Self {
        let (mut last, mut unchanged) = (Self::of(dir, instance), 0);
        for _ in 0..90 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = Self::of(dir, instance);
            unchanged = if now == last { unchanged + 1 } else { 0 };
            if unchanged == 15 {
                break;
            }
            last = now;
        }
        last
    }

    fn of(dir: &Path, instance: &str) -> Self {
        let text = dir.display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let pool = dir.join("pool");
        let files = ["capsules", "vms", "generations", "snapshots"].iter().flat_map(|part| entries(&pool.join(part)));
        let runtime = entries(&Path::new("/run/wrenn").join(instance));
        Self {
            processes: processes(dir, "").into_iter().map(|pid| pid.to_string()).collect(),
            mounts: mounts.lines().filter(|line| line.contains(&text)).map(str::to_owned).collect(),
            files: files.chain(runtime).collect(),
            ..Self::of_instance(instance)
        }
    }

    /// An error that names what is different. Prepared network slots and the platform itself may be others
    /// now, but not more.
    pub fn compare(&self, after: &Self) -> Verdict {
        let mut differences = Vec::new();
        let parts = [
            ("rules", &self.rules, &after.rules),
            ("mounts", &self.mounts, &after.mounts),
            ("files", &self.files, &after.files),
        ];
        for (what, before, after) in parts {
            if before != after {
                differences.push(format!("{what}: {:?}", before.symmetric_difference(after).collect::<Vec<_>>()));
            }
        }
        let counted = [
            ("processes", &self.processes, &after.processes),
            ("links", &self.links, &after.links),
            ("namespaces", &self.namespaces, &after.namespaces),
            ("control groups", &self.groups, &after.groups),
        ];
        for (what, before, after) in counted {
            if before.len() != after.len() {
                differences.push(format!("{what}: {before:?} became {after:?}"));
            }
        }
        if differences.is_empty() { Ok(()) } else { Err(differences.join("; ").into()) }
    }
}

/// The platform's VMMs.
pub fn vmms(dir: &Path) -> Vec<u32> {
    let mut vmms = [processes(dir, "qemu-system"), processes(dir, "firecracker --api-sock")].concat();
    vmms.sort_unstable();
    vmms
}

/// Processes whose command line has this name in it, and that or their working directory the platform's.
pub fn processes(dir: &Path, name: &str) -> Vec<u32> {
    let text = dir.display().to_string();
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = all
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            let is_its = line.contains(&text) || cwd.starts_with(dir);
            is_its && line.contains(name) && *pid != std::process::id()
        })
        .collect();
    pids.sort_unstable();
    pids
}

/// Control groups of the platform's VMMs, and the one that holds them: in one hierarchy, or in one for each controller.
fn groups(instance: &str) -> BTreeSet<String> {
    let hierarchies = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/pids"];
    let parents = hierarchies.map(|hierarchy| Path::new(hierarchy).join(format!("wrenn-{instance}")));
    let with_children = |parent: &Path| entries(parent).into_iter().filter(|path| Path::new(path).is_dir());
    parents
        .iter()
        .filter(|parent| parent.is_dir())
        .flat_map(|parent| with_children(parent).chain([parent.display().to_string()]))
        .collect()
}

/// Every VMM runs as a user of its own, in a control group of its own and without any right.
pub fn vmms_are_confined(dir: &Path) -> Verdict {
    let vmms = vmms(dir);
    let mut users = BTreeSet::new();
    for pid in &vmms {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        if !line("CapEff:").trim_start_matches('0').is_empty() || line("Uid:").split('\t').any(|uid| uid == "0") {
            return Err(format!("VMM {pid} has rights: {status}").into());
        }
        if !std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?.contains("/wrenn-") {
            return Err(format!("VMM {pid} is in no control group").into());
        }
        users.insert(line("Uid:").to_owned());
    }
    if vmms.is_empty() || users.len() != vmms.len() {
        return Err(format!("{} VMMs run as {users:?}", vmms.len()).into());
    }
    Ok(())
}

fn entries(dir: &Path) -> Vec<String> {
    let found = std::fs::read_dir(dir).into_iter().flatten().flatten();
    found.map(|entry| entry.path().display().to_string()).collect()
}

fn lines(program: &str, args: &[&str]) -> Vec<String> {
    let output = Spawn::new(program).args(args).inherit_env().output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// `wrenn down` after a crash with a running capsule: no process, link, namespace, table or mount remains.
pub async fn down_leaves_nothing(mut platform: Platform) -> Verdict {
    platform.capsule().await?;
    platform.kill()?;
    let instance = std::fs::read_to_string(platform.dir.join("instance"))?;
    platform.down()?;
    let dir = &platform.dir;
    let left = Footprint::of(dir, instance.trim());
    let expected = Footprint { files: left.files.clone(), ..Footprint::default() };
    expected.compare(&left)
}
