//! Copy-on-write disks and the reflink pool.
//!
//! Knows: how to get a directory in which files are cloned without copying ([`Pool`]), whichever file system the
//! host has; how to clone a file ([`clone_file`]); how much space is left and to whom it is promised ([`Reservation`]).
//! Must never know: virtual machines, templates, capsules. What the files mean, and making them durable, is the
//! callers' business: nothing here calls `fsync` on their files.
//!
//! Every function blocks. Cloning takes about a millisecond in a pool that shares extents, opening a pool for the
//! first time about a second (it makes a file system).

mod admission;
mod busy;
mod cloning;
mod limits;
mod mounts;
mod pool;
mod usage;
mod xfs;

pub use admission::{AdmitError, Reservation};
pub use cloning::{CloneError, Cloned, clone_file};
pub use pool::{CloseError, Kind, OpenError, PlainReason, Pool, PoolOptions};
