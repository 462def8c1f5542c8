//! What the service does, without RPC. Everything here blocks.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};

use proto::filesystem::EntryInfo;

use super::entry::entry;
use super::error::FsError;
use crate::limits;
use crate::users::{Names, User};

type Result<T = ()> = std::result::Result<T, FsError>;

pub(super) fn stat(path: &Path) -> Result<EntryInfo> {
    entry(path, &Names::load()).map_err(|error| FsError::io(path, error))
}

/// Creates a directory and its missing parents for `user`.
pub(super) fn make_dir(path: &Path, user: &User) -> Result<EntryInfo> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Err(FsError::AlreadyExists(path.to_owned())),
        Ok(_) => return Err(FsError::NotADirectory(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(FsError::io(path, error)),
    }
    make_all(path, user)?;
    stat(path)
}

/// Creates the missing directories above `path`, 0755 and owned by `user`.
pub fn make_parents(path: &Path, user: &User) -> Result {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => make_all(parent, user),
        _ => Ok(()),
    }
}

fn make_all(path: &Path, user: &User) -> Result {
    let mut missing = Vec::new();
    let mut present = Some(path);
    while let Some(directory) = present {
        match fs::metadata(directory) {
            Ok(metadata) if metadata.is_dir() => break,
            Ok(_) => return Err(FsError::NotADirectory(directory.to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => missing.push(directory),
            Err(error) => return Err(FsError::io(directory, error)),
        }
        present = directory.parent();
    }
    for directory in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o755).create(directory) {
            Ok(()) => {
                chown(directory, Some(user.uid), Some(user.gid)).map_err(|error| FsError::io(directory, error))?;
            }
            // `a/../b` names a directory twice, and another request may have been faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(FsError::io(directory, error)),
        }
    }
    Ok(())
}

/// Renames, replacing a file; never crosses file systems.
pub(super) fn rename(source: &Path, destination: &Path, user: &User) -> Result<EntryInfo> {
    fs::symlink_metadata(source).map_err(|error| FsError::io(source, error))?;
    make_parents(destination, user)?;
    fs::rename(source, destination).map_err(|error| FsError::io(source, error))?;
    stat(destination)
}

/// Removes a file, a link, or a whole directory. What is not there is removed already.
pub(super) fn remove(path: &Path) -> Result {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(FsError::io(path, error)),
        _ => Ok(()),
    }
}

/// Entries below `path`, each directory followed by its contents, names in order. Links are listed, not followed,
/// `path` itself excepted.
pub(super) fn list(path: &Path, depth: u32) -> Result<Vec<EntryInfo>> {
    let root = fs::canonicalize(path).map_err(|error| FsError::io(path, error))?;
    if !root.is_dir() {
        return Err(FsError::NotADirectory(path.to_owned()));
    }
    let mut walk = Walk { names: Names::load(), entries: Vec::new() };
    walk.directory(&root, path, depth.clamp(1, limits::LIST_DEPTH))?;
    Ok(walk.entries)
}

struct Walk {
    names: Names,
    entries: Vec<EntryInfo>,
}

impl Walk {
    /// `shown` is the path the client knows `directory` by.
    fn directory(&mut self, directory: &Path, shown: &Path, depth: u32) -> Result {
        for name in sorted_names(directory).map_err(|error| FsError::io(directory, error))? {
            let path = directory.join(&name);
            // Entries that vanish meanwhile are skipped.
            let Ok(mut entry) = entry(&path, &self.names) else { continue };
            if self.entries.len() >= limits::LIST_ENTRIES {
                return Err(FsError::TooMany("entries in the directory"));
            }
            let shown = shown.join(&name);
            entry.path = shown.to_string_lossy().into_owned();
            let is_directory = entry.symlink_target.is_none() && path.is_dir();
            self.entries.push(entry);
            if is_directory && depth > 1 {
                match self.directory(&path, &shown, depth - 1) {
                    Err(FsError::NotFound(_)) => {}
                    walked => walked?,
                }
            }
        }
        Ok(())
    }
}

fn sorted_names(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(directory)?.filter_map(|entry| Some(PathBuf::from(entry.ok()?.file_name()))).collect();
    names.sort();
    Ok(names)
}
