//! Small files that are replaced whole: a crash leaves the old content or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The next content of a file, durable but not in its place yet. Dropped, it is as if it had not been; one that a crash
/// left is replaced by the next.
#[derive(Debug)]
pub struct Draft {
    /// Where it is to be.
    path: PathBuf,
}

/// Where the next content of this file waits.
pub fn draft_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

impl Draft {
    /// Writes the next content of `path`, which only root may read: the slower half of replacing a file. Two drafts of one
    /// file at a time are one too many.
    pub fn write(path: PathBuf, bytes: &[u8]) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft_of(&path))?;
        let draft = Self { path };
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(draft)
    }

    /// Puts it in its place, durably. After an error it may be there or not.
    pub fn commit(self) -> io::Result<()> {
        fs::rename(draft_of(&self.path), &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(draft_of(&self.path));
    }
}

/// Replaces the file, durably.
pub fn replace(path: PathBuf, bytes: &[u8]) -> io::Result<()> {
    Draft::write(path, bytes)?.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_nothing_until_it_is_in_its_place() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("file");
        let names = || fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        drop(Draft::write(path.clone(), b"never")?);
        assert!(names().is_empty());
        replace(path.clone(), b"first, which is longer")?;
        let second = Draft::write(path.clone(), b"second")?;
        assert_eq!(fs::read(&path)?, b"first, which is longer");
        second.commit()?;
        assert_eq!(fs::read(&path)?, b"second");
        assert_eq!(names(), ["file"]);
        Ok(())
    }
}
