//! What can go wrong with a file.

use std::io;
use std::path::PathBuf;

use connectrpc::ConnectError;

use crate::daemon::Interrupted;
use crate::paths::PathError;
use crate::users::UnknownUser;

/// A file operation that was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// Nothing has this path.
    #[error("path '{}' does not exist", .0.display())]
    NotFound(PathBuf),
    /// A directory was wanted.
    #[error("path '{}' is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A file was wanted.
    #[error("path '{}' is a directory", .0.display())]
    IsADirectory(PathBuf),
    /// A device, pipe or socket: reading it may never end.
    #[error("path '{}' is not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// The directory is there already.
    #[error("directory already exists: '{}'", .0.display())]
    AlreadyExists(PathBuf),
    /// Links that lead to each other.
    #[error("path '{}' is a loop of symbolic links", .0.display())]
    Loop(PathBuf),
    /// No event would ever come for what another machine changes.
    #[error("path '{}' is on a network file system", .0.display())]
    NetworkMount(PathBuf),
    /// No blocks or inodes left.
    #[error("not enough space for '{}'", .0.display())]
    NoSpace(PathBuf),
    /// No such watcher.
    #[error("watcher '{0}' not found")]
    NoWatcher(String),
    /// A bound of the daemon.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// A path the daemon does not understand.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Unknown user.
    #[error(transparent)]
    User(#[from] UnknownUser),
    /// Work that did not finish.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Anything else the kernel says.
    #[error("path '{}': {error}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What.
        error: io::Error,
    },
}

impl FsError {
    /// The kernel's error for `path`.
    pub fn io(path: impl Into<PathBuf>, error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let path = path.into();
        match error.kind() {
            Kind::NotFound => Self::NotFound(path),
            Kind::NotADirectory => Self::NotADirectory(path),
            Kind::IsADirectory => Self::IsADirectory(path),
            Kind::StorageFull | Kind::QuotaExceeded => Self::NoSpace(path),
            _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => Self::Loop(path),
            _ => Self::Io { path, error },
        }
    }
}

impl From<FsError> for ConnectError {
    fn from(error: FsError) -> Self {
        let message = error.to_string();
        match error {
            FsError::NotFound(_) | FsError::NoWatcher(_) => Self::not_found(message),
            FsError::NotADirectory(_)
            | FsError::IsADirectory(_)
            | FsError::NotRegular(_)
            | FsError::NetworkMount(_)
            | FsError::Path(_) => Self::invalid_argument(message),
            FsError::AlreadyExists(_) => Self::already_exists(message),
            FsError::Loop(_) => Self::failed_precondition(message),
            FsError::User(_) => Self::unauthenticated(message),
            FsError::NoSpace(_) | FsError::TooMany(_) => Self::resource_exhausted(message),
            FsError::Io { .. } | FsError::Interrupted(_) => Self::internal(message),
        }
    }
}

impl From<UnknownUser> for ConnectError {
    fn from(error: UnknownUser) -> Self {
        Self::unauthenticated(error.to_string())
    }
}

impl From<Interrupted> for ConnectError {
    fn from(error: Interrupted) -> Self {
        Self::internal(error.to_string())
    }
}
