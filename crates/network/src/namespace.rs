//! Named network namespaces, as ip-netns(8) keeps them: a bind mount in `/run/netns` holds the namespace without a
//! process in it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

const DIRECTORY: &str = "/run/netns";

/// `f_type` of namespace files, from `<linux/magic.h>`.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Where a namespace of this name is.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Moves the calling thread into a new namespace of this name, replacing what had the name.
///
/// The thread cannot be trusted to be on the host afterwards: let it end.
pub(crate) fn create(name: &str) -> io::Result<OwnedFd> {
    let path = path(name);
    std::fs::create_dir_all(DIRECTORY)?;
    remove(name)?;
    File::create_new(&path)?;
    let created = unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| {
        rustix::mount::mount_bind("/proc/thread-self/ns/net", &path)?;
        open(name)
    });
    if created.is_err() {
        // The error that made us give up is the one to report.
        let _ = remove(name);
    }
    created
}

/// A descriptor of a namespace. `NotFound` also for a file that is none: after a reboot names may be left over.
pub(crate) fn open(name: &str) -> io::Result<OwnedFd> {
    let file = OwnedFd::from(File::open(path(name))?);
    if rustix::fs::fstatfs(&file)?.f_type == NSFS_MAGIC { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Gives up the name; the namespace ends when the last process has left it. What does not exist is fine.
pub(crate) fn remove(name: &str) -> io::Result<()> {
    let path = path(name);
    match rustix::mount::unmount(&path, UnmountFlags::DETACH) {
        // EINVAL: a file nothing is mounted on.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Names of all namespaces of this host.
pub(crate) fn names() -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries
        .map(|entry| Ok(entry?.file_name()))
        .filter_map(|name| name.map(|name| name.into_string().ok()).transpose())
        .collect()
}
