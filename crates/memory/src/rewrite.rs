//! Copying a memory file in one piece, where a reflink would inherit too many pieces.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Makes the new file `target` a copy of `source`, holes included. By reading and writing: `copy_file_range(2)` would make a
/// reflink on XFS.
pub(crate) fn copy_file(source: &Path, target: &Path) -> io::Result<File> {
    let from = File::open(source)?;
    let to = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(target)?;
    sys::sparse::copy(&from, &to, from.metadata()?.len())?;
    Ok(to)
}
