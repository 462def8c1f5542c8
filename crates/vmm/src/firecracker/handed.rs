//! Files that pass between us and a Firecracker without rights: it has a directory of its own, and nothing in there is trusted. What it
//! is given are copies, and so is what is taken of it: not even an open descriptor leads to a file of ours.
//!
//! Where the file system can, copies share their blocks (`ioctl_ficlone(2)`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, SeekFrom, ioctl_ficlone, seek};
use rustix::io::Errno;

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

/// Both at their beginning; what there is of `from`, less its holes, if that is not more than `max_bytes`.
fn copy(from: &File, to: &File, max_bytes: u64) -> io::Result<()> {
    if ioctl_ficlone(to, from).is_err() {
        to.set_len(0)?;
        let mut position = 0;
        while let Some((start, end)) = next_data(from, position)? {
            let (mut source, mut target) = (from, to);
            source.seek(io::SeekFrom::Start(start))?;
            target.seek(io::SeekFrom::Start(start))?;
            // Whoever makes it longer meanwhile gets no further than this.
            io::copy(&mut source.take(end.min(max_bytes).saturating_sub(start)), &mut target)?;
            position = end;
            if position >= max_bytes {
                break;
            }
        }
        to.set_len(from.metadata()?.len().min(max_bytes))?;
    }
    if to.metadata()?.len() > max_bytes {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has become longer than {max_bytes} bytes")));
    }
    Ok(())
}

/// The next stretch of data at or after `position`; lseek(2) says `ENXIO` when only a hole is left.
fn next_data(file: &File, position: u64) -> io::Result<Option<(u64, u64)>> {
    match seek(file, SeekFrom::Data(position)) {
        Ok(start) => Ok(Some((start, seek(file, SeekFrom::Hole(start))?))),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
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
    fn copies_keep_holes_and_end_where_they_must() -> io::Result<()> {
        use std::os::unix::fs::{FileExt as _, MetadataExt as _};
        let dir = tempfile::tempdir()?;
        let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
        let from = OpenOptions::new().read(true).write(true).create_new(true).open(from)?;
        from.set_len(64 << 20)?;
        for at in [0, 9 << 20, (64 << 20) - 4096] {
            from.write_all_at(&[7; 4096], at)?;
        }
        let to = OpenOptions::new().read(true).write(true).create_new(true).open(to)?;
        copy(&from, &to, 64 << 20)?;
        let mut contents = [0; 4096];
        for (at, byte) in [(0, 7), (4096, 0), (9 << 20, 7), ((64 << 20) - 4096, 7)] {
            to.read_exact_at(&mut contents, at)?;
            assert!(contents.iter().all(|found| *found == byte), "{at}");
        }
        assert!(to.metadata()?.blocks() * 512 < 1 << 20, "holes were written");
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
