//! A file system for one process, in which only a few things exist: a mount namespace with a root of its own
//! (`mount_namespaces(7)`, `pivot_root(2)`).

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root, umask};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Something that exists in a jail, at the path it has outside. Permissions are those it has outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visible<'a> {
    /// A file or directory that cannot be changed.
    Read(&'a Path),
    /// A file or directory that can be changed. No programs are run from there.
    Write(&'a Path),
    /// A device, made anew for this user and group alone.
    Device(&'a Path, (u32, u32)),
}

/// Makes a mount namespace, to be entered by [`crate::spawn::Spawn::enter_namespace`], with these things in it. Its root is mounted on
/// the empty directory `root` and cannot be changed. Blocks for a few milliseconds.
pub fn make(root: &Path, visible: &[Visible<'_>]) -> io::Result<OwnedFd> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("jail".to_owned());
        let built = builder.spawn_scoped(scope, || build(root, visible))?;
        built.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

/// On a thread that ends afterwards: it is the first in the namespace, and the rest of the process stays outside.
fn build(root: &Path, visible: &[Visible<'_>]) -> io::Result<OwnedFd> {
    // SAFETY: the thread's descriptors stay shared with the process; its view of the file system is nobody else's.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    // Whatever the process's is: who is jailed has to get through the directories made here.
    umask(Mode::WGRP | Mode::WOTH);
    let namespace = File::open("/proc/thread-self/ns/mnt")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let bare = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("tmpfs", root, "tmpfs", bare, c"mode=0755,size=1m")?;
    for thing in visible {
        show(root, *thing)?;
    }
    chdir(root)?;
    // Onto itself, and off again: pivot_root(2).
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    mount_remount("/", bare | MountFlags::RDONLY, c"")?;
    Ok(namespace.into())
}

fn show(root: &Path, thing: Visible<'_>) -> io::Result<()> {
    let (Visible::Read(path) | Visible::Write(path) | Visible::Device(path, _)) = thing;
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    place(root, thing).map_err(named)
}

fn place(root: &Path, thing: Visible<'_>) -> io::Result<()> {
    match thing {
        Visible::Read(path) => {
            bind(&target(root, path)?, path, MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV)
        }
        Visible::Write(path) => {
            bind(&target(root, path)?, path, MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC)
        }
        Visible::Device(path, (uid, gid)) => {
            let device = fs::metadata(path)?.rdev();
            let target = target(root, path)?;
            mknodat(CWD, &target, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, device)?;
            chown(target, Some(uid), Some(gid))
        }
    }
}

/// Where it is in the namespace to be, with its parents.
fn target(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let target = root.join(path.strip_prefix("/").map_err(|_| io::ErrorKind::InvalidInput)?);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    Ok(target)
}

fn bind(target: &Path, source: &Path, flags: MountFlags) -> io::Result<()> {
    if fs::metadata(source)?.is_dir() {
        fs::create_dir_all(target)?;
    } else if !target.try_exists()? {
        File::create(target)?;
    }
    mount_bind(source, target)?;
    Ok(mount_remount(target, MountFlags::BIND | flags, c"")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn::{Credentials, Exit, Spawn};

    const NOBODY: u32 = 65_534;

    /// What a shell in the jail says, as nobody.
    fn says(jail: &OwnedFd, script: &str) -> io::Result<String> {
        let credentials = Credentials { uid: NOBODY, gid: NOBODY, groups: Vec::new() };
        let output = Spawn::new("/bin/sh")
            .args(["-c", script])
            .enter_namespace(jail.try_clone()?)
            .credentials(credentials)
            .cwd("/")
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(if output.exit == Exit::Code(0) { said } else { format!("{said}{:?}", output.exit) })
    }

    #[test]
    fn only_what_was_shown_is_there() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let [root, read, write] = ["root", "read", "write"].map(|name| dir.path().join(name));
        for dir in [&root, &write] {
            fs::create_dir(dir)?;
        }
        fs::write(&read, "contents")?;
        fs::write(dir.path().join("other"), "")?;
        chown(&write, Some(NOBODY), Some(NOBODY))?;
        let programs = ["/bin", "/lib", "/lib64", "/usr/bin", "/usr/lib"].map(Path::new);
        let mut visible: Vec<_> = programs.iter().filter(|dir| dir.exists()).map(|dir| Visible::Read(dir)).collect();
        visible.push(Visible::Device(Path::new("/dev/urandom"), (NOBODY, NOBODY)));
        visible.extend([Visible::Read(&read), Visible::Write(&write)]);
        let jail = make(&root, &visible)?;

        let here = dir.path().display();
        for (script, expected) in [
            (format!("cat {here}/read"), "contents"),
            (format!("ls {here}"), "read\nwrite"),
            ("ls /dev".to_owned(), "urandom"),
            ("head -c 1 /dev/urandom | wc -c".to_owned(), "1"),
            ("ls /proc /etc /run".to_owned(), "Code(2)"),
            (format!("echo a >> {here}/read"), "Code(2)"),
            (format!("echo b > {here}/write/new && cat {here}/write/new"), "b"),
            (format!("cp /bin/true {here}/write/ && {here}/write/true"), "Code(126)"),
            ("mkdir /new".to_owned(), "Code(1)"),
        ] {
            assert_eq!(says(&jail, &script)?, expected, "{script}");
        }
        assert_eq!(fs::read_to_string(write.join("new"))?, "b\n", "what it writes is outside as well");
        // Outside nothing has changed.
        assert_eq!(fs::read_dir(&root)?.count(), 0);
        fs::remove_dir(&root)?;
        Ok(())
    }

    #[test]
    fn what_is_missing_is_named() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        for missing in [Visible::Read(Path::new("/no/such")), Visible::Device(Path::new("/no/such"), (0, 0))] {
            let error = make(dir.path(), &[missing]).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with("/no/such: "), "{error}");
        }
        assert!(make(dir.path(), &[Visible::Read(Path::new("relative"))]).is_err());
        Ok(())
    }
}
