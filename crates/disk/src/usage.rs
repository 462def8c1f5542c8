//! Space that files really occupy.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// stat(2): `st_blocks` counts units of 512 bytes whatever the file system's block size.
const STAT_BLOCK_BYTES: u64 = 512;

/// Allocated bytes of a file, or of a directory with everything in it. Symbolic links are not followed. Files that
/// vanish meanwhile count as nothing.
pub(crate) fn allocated_bytes(path: &Path) -> io::Result<u64> {
    let metadata = std::fs::symlink_metadata(path)?;
    let mut bytes = metadata.blocks() * STAT_BLOCK_BYTES;
    let mut directories = Vec::new();
    if metadata.is_dir() {
        directories.push(path.to_owned());
    }
    while let Some(directory) = directories.pop() {
        let Some(entries) = present(std::fs::read_dir(&directory))? else { continue };
        for entry in entries {
            let entry = entry?;
            let Some(metadata) = present(entry.metadata())? else { continue };
            bytes += metadata.blocks() * STAT_BLOCK_BYTES;
            if metadata.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
