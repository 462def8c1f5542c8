//! Files with holes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// What is read and written at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The next stretch of data at or after `position`; none when only a hole is left (lseek(2), `ENXIO`). Moves the file's offset.
pub fn next_data(file: &File, position: u64) -> io::Result<Option<Range<u64>>> {
    match seek(file, SeekFrom::Data(position)) {
        Ok(start) => Ok(Some(start..seek(file, SeekFrom::Hole(start))?)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes the empty file `to` the first `length` bytes of `from`, holes included. By reading and writing: `copy_file_range(2)`
/// would share extents where it can.
pub fn copy(from: &File, to: &File, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut position = 0;
    while position < length {
        let Some(data) = next_data(from, position)? else { break };
        position = data.start;
        let end = data.end.min(length);
        while position < end {
            let bytes = usize::try_from(end - position).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            let chunk = buffer.get_mut(..bytes).unwrap_or_default();
            from.read_exact_at(chunk, position)?;
            to.write_all_at(chunk, position)?;
            position += bytes as u64;
        }
    }
    to.set_len(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn copies_keep_data_and_holes_and_end_where_they_must() -> io::Result<()> {
        const LENGTH: u64 = 64 << 20;
        let from = tempfile::tempfile()?;
        from.set_len(LENGTH)?;
        from.write_all_at(b"first", 0)?;
        from.write_all_at(&vec![7; 3 << 20], 20 << 20)?;
        from.write_all_at(b"last", LENGTH - 4)?;
        for length in [0, 3, 1 << 20, (21 << 20) + 1, LENGTH] {
            let to = tempfile::tempfile()?;
            copy(&from, &to, length)?;
            assert_eq!(to.metadata()?.len(), length);
            let [mut read, mut expected] = [(); 2].map(|()| vec![0; length as usize]);
            to.read_exact_at(&mut read, 0)?;
            from.read_exact_at(&mut expected, 0)?;
            assert!(read == expected, "{length}");
            assert!(to.metadata()?.blocks() * 512 < 8 << 20, "holes were written");
        }
        Ok(())
    }
}
