//! Files that pass between us and a Firecracker without rights: it has a directory of its own, and nothing in there is trusted. What it
//! is given are copies, and so is what is taken of it: not even an open descriptor leads to a file of ours.
//!
//! Where the file system can, copies share their blocks (`ioctl_ficlone(2)`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, ioctl_ficlone};

use crate::User;

/// The directory of a VMM without rights.
#[derive(Debug, Clone)]
pub(super) struct Handed {
    dir: PathBuf,
    user: User,
}

impl Handed {
    pub(super) fn new(dir: &Path, user: User) -> Self {
        Self { dir: dir.to_owned(), user }
    }

    /// A copy of a file for the VMM to change. Blocks.
    pub(super) fn give(&self, from: &Path, name: &str) -> io::Result<PathBuf> {
        let to = self.make(name)?;
        copy(&File::open(from)?, &to, u64::MAX)?;
        Ok(self.dir.join(name))
    }

    /// An empty file for the VMM to fill.
    pub(super) fn offer(&self, name: &str) -> io::Result<PathBuf> {
        self.make(name)?;
        Ok(self.dir.join(name))
    }

    /// Replaces what `to` holds by what the VMM has in this file, at most `max_bytes` of it, and removes the file. Blocks.
    pub(super) fn take(&self, name: &str, to: &File, max_bytes: u64) -> io::Result<()> {
        let path = self.dir.join(name);
        // It could be a link by now, or a pipe that nobody writes to.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let from = OpenOptions::new().read(true).custom_flags(flags).open(&path)?;
        let metadata = from.metadata()?;
        if !metadata.is_file() || metadata.len() > max_bytes {
            let what = format!("{} is not a file of at most {max_bytes} bytes", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        copy(&from, to, max_bytes)?;
        fs::remove_file(path)
    }

    /// Whatever had this name before goes.
    fn make(&self, name: &str) -> io::Result<File> {
        let path = self.dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // A new one: a link put there in the meantime is not followed (open(2), O_EXCL).
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        fchown(&file, Some(self.user.uid), Some(self.user.gid))?;
        Ok(file)
    }
}

/// What there is of `from`, if that is not more than `max_bytes`.
fn copy(from: &File, to: &File, max_bytes: u64) -> io::Result<()> {
    if ioctl_ficlone(to, from).is_err() {
        to.set_len(0)?;
        // Whoever makes it longer meanwhile gets no further than this.
        sys::sparse::copy(from, to, from.metadata()?.len().min(max_bytes))?;
    }
    if to.metadata()?.len() > max_bytes {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has become longer than {max_bytes} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(dir: &Path) -> Handed {
        Handed::new(dir, User { uid: 1234, gid: 1235 })
    }

    #[test]
    fn what_is_given_and_taken_are_copies() -> io::Result<()> {
        use std::os::unix::fs::MetadataExt as _;
        let (ours, theirs) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let (handed, file) = (handed(theirs.path()), ours.path().join("file"));
        fs::write(&file, "ours")?;
        // A file that stands in the way, or a link to somewhere else, is replaced.
        std::os::unix::fs::symlink(&file, theirs.path().join("it"))?;
        let given = handed.give(&file, "it")?;
        let metadata = fs::symlink_metadata(&given)?;
        assert_eq!((metadata.is_file(), metadata.uid(), metadata.gid()), (true, 1234, 1235));
        fs::write(&given, "changed by them")?;
        assert_eq!(fs::read_to_string(&file)?, "ours");
        let to = OpenOptions::new().write(true).open(&file)?;
        handed.take("it", &to, 100)?;
        assert_eq!(fs::read_to_string(&file)?, "changed by them");
        assert!(!given.exists());
        Ok(())
    }

    #[test]
    fn nothing_but_a_file_of_a_possible_size_is_taken() -> io::Result<()> {
        let (ours, theirs) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let (handed, secret) = (handed(theirs.path()), ours.path().join("secret"));
        fs::write(&secret, "ours")?;
        let to = File::create(ours.path().join("to"))?;
        let it = theirs.path().join("it");
        let ways: [&dyn Fn() -> io::Result<()>; 4] = [
            &|| std::os::unix::fs::symlink(&secret, &it),
            &|| Ok(rustix::fs::mkfifoat(rustix::fs::CWD, &it, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?),
            &|| fs::write(&it, "too much"),
            &|| fs::create_dir(&it),
        ];
        for make in ways {
            make()?;
            assert!(handed.take("it", &to, 4).is_err());
            assert_eq!(to.metadata()?.len(), 0);
            fs::remove_file(&it).or_else(|_| fs::remove_dir(&it))?;
        }
        assert!(handed.take("it", &to, 4).is_err(), "it is missing");
        Ok(())
    }
}
