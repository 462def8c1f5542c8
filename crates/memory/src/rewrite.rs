//! Copying a memory file in one piece, where a reflink would inherit too many pieces.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::limits::COPY_BYTES;

/// Makes the new file `target` a copy of `source`, holes included. By reading and writing: `copy_file_range(2)` would make a
/// reflink on XFS.
pub(crate) fn copy_file(source: &Path, target: &Path) -> io::Result<File> {
    let from = File::open(source)?;
    let to = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(target)?;
    to.set_len(from.metadata()?.len())?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut position = 0;
    while let Some((start, end)) = next_data(&from, position)? {
        position = start;
        while position < end {
            let length = usize::try_from(end - position).unwrap_or(usize::MAX).min(COPY_BYTES);
            let chunk = buffer.get_mut(..length).unwrap_or_default();
            from.read_exact_at(chunk, position)?;
            to.write_all_at(chunk, position)?;
            position += length as u64;
        }
    }
    Ok(to)
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

    #[test]
    fn copies_keep_data_and_holes() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (source, target) = (dir.path().join("a"), dir.path().join("b"));
        let file = File::create_new(&source)?;
        file.set_len(64 << 20)?;
        file.write_all_at(b"first", 0)?;
        file.write_all_at(&vec![7; 3 << 20], 20 << 20)?;
        file.write_all_at(b"last", (64 << 20) - 4)?;
        let copy = copy_file(&source, &target)?;
        assert!(std::fs::read(&source)? == std::fs::read(&target)?);
        assert!(rustix::fs::fstat(&copy)?.st_blocks * 512 < 8 << 20);
        assert!(copy_file(&source, &target).is_err(), "the target exists");
        Ok(())
    }
}
