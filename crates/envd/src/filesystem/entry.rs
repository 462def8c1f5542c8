//! One file as clients see it.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use buffa_types::google::protobuf::Timestamp;
use proto::filesystem::{EntryInfo, FileType};

use super::metadata;
use crate::users::Names;

/// Looks at `path` itself; of a link the type and mode are the target's.
pub(super) fn entry(path: &Path, names: &Names) -> io::Result<EntryInfo> {
    let own = fs::symlink_metadata(path)?;
    let is_link = own.file_type().is_symlink();
    // The kernel refuses even root to *follow* a user's link in a sticky directory such as /tmp
    // (fs.protected_symlinks), so the link is read and its target looked at.
    let resolved = is_link.then(|| fs::canonicalize(path).ok());
    let target = match &resolved {
        Some(resolved) => resolved.as_deref().and_then(|target| fs::metadata(target).ok()),
        None => Some(own.clone()),
    };
    let symlink_target =
        resolved.map(|target| target.unwrap_or_else(|| path.to_owned()).to_string_lossy().into_owned());
    let may_have_metadata = target.as_ref().is_some_and(|target| target.is_file() || target.is_dir());
    let metadata = if may_have_metadata { metadata::read(path) } else { BTreeMap::new() };
    Ok(EntryInfo {
        name: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
        r#type: target.as_ref().map_or(FileType::Unspecified, file_type).into(),
        path: path.to_string_lossy().into_owned(),
        size: own.size().cast_signed(),
        mode: target.as_ref().unwrap_or(&own).mode() & 0o777,
        permissions: permissions(&own),
        owner: names.user(own.uid()),
        group: names.group(own.gid()),
        modified_time: modified(&own).into(),
        symlink_target,
        metadata: metadata.into_iter().collect(),
        ..Default::default()
    })
}

fn file_type(metadata: &Metadata) -> FileType {
    if metadata.is_file() {
        FileType::File
    } else if metadata.is_dir() {
        FileType::Directory
    } else {
        FileType::Unspecified
    }
}

fn modified(metadata: &Metadata) -> Option<Timestamp> {
    let (seconds, nanos) = (metadata.mtime(), i32::try_from(metadata.mtime_nsec()).unwrap_or_default());
    (seconds != 0 || nanos != 0).then(|| Timestamp { seconds, nanos, ..Default::default() })
}

/// As Go's `FileMode` prints itself, which is what clients compare with: all type letters, `-` when there is
/// none, then nine bits. `/tmp` is `dtrwxrwxrwx`.
fn permissions(metadata: &Metadata) -> String {
    let (kind, mode) = (metadata.file_type(), metadata.mode());
    let flags = [
        (kind.is_dir(), 'd'),
        (kind.is_symlink(), 'L'),
        (kind.is_block_device() || kind.is_char_device(), 'D'),
        (kind.is_fifo(), 'p'),
        (kind.is_socket(), 'S'),
        (mode & 0o4000 != 0, 'u'),
        (mode & 0o2000 != 0, 'g'),
        (kind.is_char_device(), 'c'),
        (mode & 0o1000 != 0, 't'),
    ];
    let mut text: String = flags.iter().filter(|(set, _)| *set).map(|(_, letter)| *letter).collect();
    if text.is_empty() {
        text.push('-');
    }
    for (bit, letter) in (0..9).rev().zip("rwx".chars().cycle()) {
        text.push(if mode & (1 << bit) != 0 { letter } else { '-' });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_of_well_known_files() -> io::Result<()> {
        for (path, expected) in [("/tmp", "dtrwxrwxrwx"), ("/dev/null", "Dcrw-rw-rw-"), ("/etc/passwd", "-rw-r--r--")] {
            assert_eq!(permissions(&fs::symlink_metadata(path)?), expected, "{path}");
        }
        Ok(())
    }
}
