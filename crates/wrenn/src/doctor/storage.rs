//! Where capsules' disks and memory lie.

use super::check::Finding;
use super::fix::Fix;
use super::host::Unloadable;
use super::programs;
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

const GIB: u64 = 1 << 30;
/// One template and a capsule or two.
const SPACE_LOW: u64 = 10 * GIB;
/// Not enough for the first template.
const SPACE_NONE: u64 = 4 * GIB;
/// Files of a root file system under construction, twice.
const FILES_LOW: u64 = 50_000;
/// unix(7): a socket's path, its final zero left out.
const SOCKET_PATH_MAX: usize = 107;
/// The longest that is bound below the data directory.
const SOCKET: &str = "run/agent.sock";
/// What a platform leaves in its data directory first.
const INSTANCE: &str = "instance";
/// `f_type` of a file system in memory, from `<linux/magic.h>`.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// The data directory.
#[derive(Debug)]
pub struct Directory {
    /// Absolute.
    pub path: PathBuf,
    /// Permissions, if it exists.
    pub mode: Option<u32>,
    /// Its content is gone after a reboot.
    pub in_memory: bool,
    /// A platform has been there: it is nobody else's.
    pub ours: bool,
}

impl Directory {
    /// Looks at it; it need not exist.
    pub fn look(dir: &Path) -> Self {
        let path = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let in_memory = rustix::fs::statfs(existing(&path)).is_ok_and(|facts| facts.f_type == TMPFS_MAGIC);
        let mode = fs::metadata(&path).ok().map(|facts| facts.permissions().mode() & 0o777);
        let ours = path.join(INSTANCE).exists();
        Self { path, mode, in_memory, ours }
    }
}

/// Whether keys and guests' memory can be kept there, and kept from others.
pub fn directory(facts: &Directory) -> Finding {
    let Directory { path, mode, in_memory, ours } = facts;
    let shown = path.display();
    if path.join(SOCKET).as_os_str().len() > SOCKET_PATH_MAX {
        return Finding::fail(
            format!("{shown} is too long a path: a socket below it has {SOCKET_PATH_MAX} bytes"),
            "choose a shorter one with --dir",
        );
    }
    if mode.is_some_and(|mode| mode & 0o077 != 0) {
        let what = format!("{shown} holds keys and the memory of guests, and others may enter it");
        // Somebody else's must not be closed to its users.
        return if *ours {
            Finding::warn_fixable(what, Fix::Close(path.clone()))
        } else {
            Finding::warn(what, "choose a directory of its own with --dir")
        };
    }
    if *in_memory {
        return Finding::warn(
            format!("{shown} lies in memory: a reboot loses every capsule"),
            "choose a directory on a disk with --dir",
        );
    }
    Finding::ok(shown.to_string())
}

/// How disks can be cloned.
#[derive(Debug)]
pub struct Cloning {
    /// Where it was tried.
    pub place: PathBuf,
    /// Its files share extents.
    pub shares: bool,
    /// The pool was begun without sharing, and holds files that a mount would hide.
    pub begun: bool,
    /// There is `mkfs.xfs`.
    pub mkfs: bool,
    /// What the kernel lacks to mount a file as XFS.
    pub lacking: Vec<&'static str>,
}

impl Cloning {
    /// Tries it at the pool, or where the pool would be.
    pub fn look(dir: &Path) -> Self {
        let pool = dir.join("pool");
        let place = existing(&pool).to_owned();
        let shares = shares_extents(&place).is_ok();
        let holds_files = fs::read_dir(&pool).is_ok_and(|mut entries| entries.next().is_some());
        let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let loadable = |module: &str| programs::run("modprobe", &["--dry-run", "--quiet", module]).is_ok();
        let xfs = filesystems.lines().any(|line| line.trim() == "xfs") || loadable("xfs");
        let loops = Path::new("/dev/loop-control").exists();
        let lacking = [("loop", loops), ("xfs", xfs)].into_iter().filter(|(_, there)| !there).map(|(name, _)| name);
        Self {
            shares,
            begun: holds_files && !dir.join("pool.xfs").exists(),
            mkfs: programs::find("mkfs.xfs").is_some(),
            lacking: lacking.collect(),
            place,
        }
    }
}

/// Whether disks can be cloned without copying: the file system can, or a pool of our own can be made.
pub fn clones(facts: &Cloning) -> Finding {
    let Cloning { place, shares, begun, mkfs, lacking } = facts;
    if *shares {
        return Finding::ok(format!("{} clones files", place.display()));
    }
    if *begun {
        return Finding::warn(
            "disks are copied: the pool was begun without sharing",
            "`wrenn down --purge` and begin anew, or put the data directory on XFS or btrfs",
        );
    }
    if !mkfs {
        return Finding::warn("disks are copied: no mkfs.xfs", programs::installation(&["xfsprogs"]));
    }
    if !lacking.is_empty() {
        let modules: &'static [&'static str] = &["loop", "xfs"];
        return Finding::warn(
            format!("disks are copied: the kernel has no {}", lacking.join(" and no ")),
            format!("{}, or put the data directory on XFS or btrfs", Fix::Load(modules)),
        )
        .fixed_by([Fix::Load(modules)]);
    }
    Finding::ok("an XFS pool file, mounted over a loop device")
}

/// FICLONE on two unnamed files tells more than the file system's name: XFS made before 2018 cannot.
fn shares_extents(dir: &Path) -> io::Result<()> {
    let temporary = || rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    let source = File::from(temporary()?);
    source.set_len(4096)?;
    Ok(rustix::fs::ioctl_ficlone(temporary()?, &source)?)
}

/// What is free under the data directory.
#[derive(Debug)]
pub struct Space {
    /// Where it was asked.
    pub place: PathBuf,
    /// Bytes.
    pub bytes: u64,
    /// Files; none where the file system has no bound.
    pub files: Option<u64>,
}

impl Space {
    /// Asks the file system.
    pub fn look(dir: &Path) -> io::Result<Self> {
        let place = existing(dir);
        let facts = rustix::fs::statvfs(place)?;
        let files = (facts.f_files > 0).then_some(facts.f_favail);
        Ok(Self { place: place.to_owned(), bytes: facts.f_bavail * facts.f_frsize, files })
    }
}

/// Free space under the data directory.
pub fn space(facts: &io::Result<Space>) -> Finding {
    let Space { place, bytes, files } = match facts {
        Ok(facts) => facts,
        Err(error) => return Finding::fail(error.to_string(), "choose another directory with --dir"),
    };
    let found = format!("{} GiB free at {}", bytes / GIB, place.display());
    let remedy = "free some, or choose another directory with --dir";
    match (*bytes, files) {
        (0..SPACE_NONE, _) => Finding::fail(found, format!("a platform needs {} GiB: {remedy}", SPACE_LOW / GIB)),
        (_, Some(files @ 0..FILES_LOW)) => Finding::warn(format!("{found}, but for {files} files only"), remedy),
        (SPACE_NONE..SPACE_LOW, _) => Finding::warn(found, remedy),
        _ => Finding::ok(found),
    }
}

/// Paused capsules whose memory cannot be loaded.
pub fn saved(unloadable: &Unloadable) -> Finding {
    let Unloadable { foreign, damaged } = unloadable;
    let ids = |ids: &BTreeSet<_>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match (foreign.is_empty(), damaged.is_empty()) {
        (true, true) => Finding::ok("every paused capsule known here can be resumed"),
        (false, true) => Finding::warn(
            format!("of another VMM, processor or guest kernel: {}", ids(foreign)),
            "`wrenn capsule resume --discard-memory ID` boots from its disk",
        ),
        (true, false) => Finding::warn(
            format!("damaged: {}", ids(damaged)),
            "put `pool/generations` back from a backup, or `wrenn capsule rm ID`",
        ),
        (false, false) => Finding::warn(
            format!("of another VMM, processor or guest kernel: {}; damaged: {}", ids(foreign), ids(damaged)),
            "`wrenn capsule resume --discard-memory ID` boots the former from their disks; the latter need a backup of `pool/generations`",
        ),
    }
}

/// The nearest directory above that exists already.
fn existing(dir: &Path) -> &Path {
    dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::super::check::Verdict::{Fail, Ok as Fine, Warn};
    use super::super::lab::with_tmpfs;
    use super::*;

    #[test]
    fn directories() {
        let path = |length: usize| PathBuf::from(format!("/{}", "x".repeat(length - 1)));
        let rows = [
            (path(20), Some(0o700), false, Fine),
            (path(20), None, false, Fine),
            (path(92), None, false, Fine),
            (path(93), None, false, Fail),
            (path(20), Some(0o750), false, Warn),
            (path(20), None, true, Warn),
        ];
        for (path, mode, in_memory, verdict) in rows {
            let facts = Directory { path, mode, in_memory, ours: true };
            assert_eq!(directory(&facts).verdict, verdict, "{facts:?}");
        }
    }

    #[test]
    fn an_open_directory_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let finding = directory(&Directory::look(dir.path()));
        assert_eq!((finding.verdict, finding.fixes.len()), (Warn, 0), "it may be somebody else's");
        fs::write(dir.path().join(INSTANCE), "abc").unwrap();
        let finding = directory(&Directory::look(dir.path()));
        assert_eq!(finding.verdict, Warn, "{finding:?}");
        for fix in finding.fixes {
            fix.apply().unwrap();
        }
        assert_eq!(Directory::look(dir.path()).mode, Some(0o700));
    }

    #[test]
    fn ways_to_clone() {
        let rows: [(bool, bool, bool, &[&str], _, usize); 5] = [
            (true, true, false, &["loop"], Fine, 0),
            (false, false, true, &[], Fine, 0),
            (false, true, true, &[], Warn, 0),
            (false, false, false, &[], Warn, 0),
            (false, false, true, &["loop", "xfs"], Warn, 1),
        ];
        for (shares, begun, mkfs, lacking, verdict, fixes) in rows {
            let facts = Cloning { place: "/".into(), shares, begun, mkfs, lacking: lacking.to_vec() };
            let finding = clones(&facts);
            assert_eq!((finding.verdict, finding.fixes.len()), (verdict, fixes), "{facts:?}");
        }
    }

    #[test]
    fn a_small_file_system_in_memory_is_seen_through() {
        with_tmpfs("size=8m,nr_inodes=1000,mode=700", |dir| {
            assert_eq!(directory(&Directory::look(dir)).verdict, Warn);
            let cloning = Cloning::look(dir);
            assert!(!cloning.shares, "tmpfs does not share extents");
            assert!(!cloning.begun);
            fs::create_dir_all(dir.join("pool/vms")).unwrap();
            assert_eq!(clones(&Cloning::look(dir)).found, "disks are copied: the pool was begun without sharing");
            let finding = space(&Space::look(&dir.join("not/yet")));
            assert_eq!((finding.verdict, finding.found), (Fail, format!("0 GiB free at {}", dir.display())));
        });
        with_tmpfs("size=16g,nr_inodes=1000", |dir| {
            let finding = space(&Space::look(dir));
            assert_eq!(finding.verdict, Warn, "{finding:?}");
            assert!(finding.found.ends_with("files only"), "{finding:?}");
        });
    }

    #[test]
    fn spaces() {
        let rows = [
            (SPACE_LOW, None, Fine),
            (SPACE_LOW, Some(FILES_LOW), Fine),
            (SPACE_LOW - 1, None, Warn),
            (SPACE_LOW, Some(1), Warn),
            (SPACE_NONE - 1, Some(1), Fail),
        ];
        for (bytes, files, verdict) in rows {
            let facts = Ok(Space { place: "/".into(), bytes, files });
            assert_eq!(space(&facts).verdict, verdict, "{facts:?}");
        }
        assert_eq!(space(&Err(io::ErrorKind::NotFound.into())).verdict, Fail);
    }

    #[test]
    fn capsules_that_cannot_be_resumed_are_listed() {
        let [a, b] = std::array::from_fn(|_| model::CapsuleId::random());
        for (foreign, damaged, verdict, remedy) in [
            (vec![], vec![], Fine, None),
            (vec![a], vec![], Warn, Some("--discard-memory ID")),
            (vec![], vec![b], Warn, Some("from a backup")),
            (vec![a], vec![b], Warn, Some("need a backup")),
        ] {
            let ids: Vec<_> = foreign.iter().chain(&damaged).map(ToString::to_string).collect();
            let unloadable =
                Unloadable { foreign: foreign.into_iter().collect(), damaged: damaged.into_iter().collect() };
            let finding = saved(&unloadable);
            assert_eq!(finding.verdict, verdict);
            assert!(ids.iter().all(|id| finding.found.contains(id)), "{}", finding.found);
            let given = finding.remedy.unwrap_or_default();
            assert!(remedy.is_none_or(|remedy| given.contains(remedy)), "{given}");
        }
    }
}
