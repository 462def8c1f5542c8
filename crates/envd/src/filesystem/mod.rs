//! Files: look, list, create, move, remove, watch.
//!
//! Every operation runs with the daemon's own rights; the user only decides what relative paths mean and who owns
//! what is created.

mod entry;
mod error;
pub mod metadata;
mod operations;
mod service;
mod watch;

pub use error::FsError;
pub use operations::make_parents;
pub use service::FilesystemService;
pub use watch::Watchers;
