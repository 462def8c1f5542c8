//! The guest daemon, and the init that keeps it alive.
//!
//! Knows: the processes and files of the machine it runs in, and how clients ask for them (`process.Process` and
//! `filesystem.Filesystem` over Connect, a few HTTP routes beside them); how a guest boots ([`init`]); how to stand
//! still for a memory snapshot and go on after it ([`quiesce`]).
//! Must never know: which host, which virtual machine monitor, which team, which capsule it serves. It believes
//! whoever has the access token, and the host before one is set.
//!
//! One static binary with two faces: as PID 1 it is init, else the daemon.

pub mod cgroups;
pub mod daemon;
pub mod descriptors;
pub mod filesystem;
pub mod handover;
pub mod http;
pub mod init;
pub mod limits;
pub mod machine;
pub mod metadata;
pub mod paths;
pub mod ports;
pub mod process;
pub mod quiesce;
pub mod serve;
pub mod settings;
pub mod stream;
pub mod supervise;
pub mod users;
