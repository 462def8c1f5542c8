//! A log file that can be renamed under its writer.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Clones write to the same file.
#[derive(Debug, Clone)]
pub(crate) struct LogFile {
    path: Arc<PathBuf>,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: Arc::new(path.to_owned()), file: Arc::new(Mutex::new(append(path)?)) })
    }

    /// The new file is open before the former one closes, so that no line is lost.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        let new = append(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_renamed_file_is_replaced() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let (path, rotated) = (directory.path().join("logs/a.log"), directory.path().join("a.log.1"));
        let mut log = LogFile::open(&path)?;
        log.write_all(b"one\n")?;
        std::fs::rename(&path, &rotated)?;
        log.write_all(b"two\n")?;
        log.clone().reopen()?;
        log.write_all(b"three\n")?;
        assert_eq!(std::fs::read_to_string(rotated)?, "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path)?, "three\n");
        assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o640);
        Ok(())
    }
}
