//! What the kernel lets one process, or all of them together, have at a time.

use super::check::Finding;
use super::fix::Fix;
use super::host::MAX_FLOWS;
use rustix::fs::inotify;
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::path::{Path, PathBuf};

/// A platform holds some dozens of descriptors, and some twenty for each capsule.
const OPEN_FILES_LOW: u64 = 4_096;
/// Not enough for the first capsule.
const OPEN_FILES_NONE: u64 = 256;
/// The host's table of flows: room for this many guests that use all they may.
const CONNTRACK_GUESTS: u64 = 32;
/// Of that table's entries, in hundredths.
const CONNTRACK_FULL_PERCENT: u64 = 80;
/// The kernel's own default.
const INOTIFY_INSTANCES_LOW: u64 = 128;
/// What systemd sets.
const INOTIFY_INSTANCES: u64 = 1_024;

/// The most files this process could have open; the platform raises its own limit as far as it needs.
pub fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Sockets of capsules.
pub fn open_files(maximum: u64) -> Finding {
    let found = format!("{maximum} at most");
    let remedy = "ulimit -Hn 65536 as root, LimitNOFILE=65536 in a systemd unit";
    match maximum {
        0..OPEN_FILES_NONE => Finding::fail(found, remedy),
        OPEN_FILES_NONE..OPEN_FILES_LOW => Finding::warn(found, remedy),
        _ => Finding::ok(if maximum == u64::MAX { "no limit".to_owned() } else { found }),
    }
}

/// The host's table of flows, which is everybody's. None before something tracks flows.
#[derive(Debug)]
pub struct Conntrack {
    /// Flows there are.
    pub count: u64,
    /// Flows there may be.
    pub max: u64,
    /// The file to set that in.
    pub file: PathBuf,
}

impl Conntrack {
    /// Reads it below `/proc/sys`.
    pub fn read(proc_sys: &Path) -> Option<Self> {
        let file = proc_sys.join("net/netfilter/nf_conntrack_max");
        let count = number(&proc_sys.join("net/netfilter/nf_conntrack_count"))?;
        Some(Self { count, max: number(&file)?, file })
    }
}

/// Once the table is full the whole machine's new connections fail.
pub fn conntrack(facts: Option<&Conntrack>) -> Finding {
    let Some(Conntrack { count, max, file }) = facts else { return Finding::ok("no flows are tracked yet") };
    let wanted = CONNTRACK_GUESTS * u64::from(MAX_FLOWS);
    let found = format!("{count} of {max} flows");
    if *max < wanted {
        Finding::warn_fixable(
            format!("{found}; one capsule may have {MAX_FLOWS}"),
            Fix::Set { file: file.clone(), value: 2 * wanted },
        )
    } else if count * 100 >= max * CONNTRACK_FULL_PERCENT {
        Finding::warn_fixable(format!("{found}: nearly full"), Fix::Set { file: file.clone(), value: 2 * max })
    } else {
        Finding::ok(found)
    }
}

/// Watches on files, by which tools notice changes. Capsules have their own kernel; the platform needs none, what
/// follows its logs does.
#[derive(Debug)]
pub struct Inotify {
    /// Instances one user may have.
    pub instances: u64,
    /// One more can be had now.
    pub available: bool,
    /// The file to set their number in.
    pub file: PathBuf,
}

impl Inotify {
    /// Reads it below `/proc/sys`, and takes an instance for a moment.
    pub fn read(proc_sys: &Path) -> Self {
        let file = proc_sys.join("fs/inotify/max_user_instances");
        let available = inotify::init(inotify::CreateFlags::CLOEXEC).is_ok();
        Self { instances: number(&file).unwrap_or(0), available, file }
    }
}

/// Whether tools can still watch files.
pub fn inotify(facts: &Inotify) -> Finding {
    let Inotify { instances, available, file } = facts;
    let value = INOTIFY_INSTANCES.max(2 * instances);
    match (available, *instances) {
        (false, instances) => Finding::warn_fixable(
            format!("all {instances} instances are in use"),
            Fix::Set { file: file.clone(), value },
        ),
        (true, 0..INOTIFY_INSTANCES_LOW) => Finding::warn_fixable(
            format!("{instances} instances for each user, which `tail -f` and services share"),
            Fix::Set { file: file.clone(), value },
        ),
        (true, instances) => Finding::ok(format!("{instances} instances for each user")),
    }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::check::Verdict::{Fail, Ok as Fine, Warn};
    use super::*;

    #[test]
    fn descriptors() {
        for (maximum, verdict) in [(u64::MAX, Fine), (4096, Fine), (4095, Warn), (256, Warn), (255, Fail)] {
            assert_eq!(open_files(maximum).verdict, verdict, "{maximum}");
        }
    }

    #[test]
    fn flows_that_do_not_fit_are_given_room() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("net/netfilter");
        assert_eq!(conntrack(Conntrack::read(root.path()).as_ref()).verdict, Fine);
        fs::create_dir_all(&dir).unwrap();
        for (count, max, verdict) in [(7, 262_144, Fine), (7, 65_536, Warn), (210_000, 262_144, Warn)] {
            fs::write(dir.join("nf_conntrack_count"), format!("{count}\n")).unwrap();
            fs::write(dir.join("nf_conntrack_max"), format!("{max}\n")).unwrap();
            let look = || conntrack(Conntrack::read(root.path()).as_ref());
            let finding = look();
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            for fix in finding.fixes {
                fix.apply().unwrap();
            }
            assert_eq!(look().verdict, Fine, "{:?}", look());
        }
    }

    #[test]
    fn watches_that_run_out_are_given_room() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("fs/inotify")).unwrap();
        let file = root.path().join("fs/inotify/max_user_instances");
        for (instances, available, verdict) in [(128, true, Fine), (127, true, Warn), (4096, false, Warn)] {
            fs::write(&file, format!("{instances}\n")).unwrap();
            let finding = inotify(&Inotify { available, ..Inotify::read(root.path()) });
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            for fix in finding.fixes {
                fix.apply().unwrap();
                assert!(number(&file).unwrap() > instances);
            }
        }
    }
}
