//! The keeper: a small process that is the parent of one VMM and outlives the agent.
//!
//! Knows: how to start a VMM in its network namespace, its control group ([`cgroup`]), its console (drained always, the last 256 KiB kept
//! and served), its guest memory where that is brought page by page, how it ended and why, and how a restarted agent finds
//! both processes again.
//! Must never know: capsules, RPC, what the VMM is told to do on its control socket.
//!
//! The directory of a machine holds `spec.json` (what to run), `keeper.json` (who runs), `console.sock` and, once the VMM
//! ended, `exit.json`. If the keeper dies, the VMM has to go: nobody would drain its console or see its end. The kernel kills it as long as it is the
//! user it was started as; [`attach`] and [`Keeper::kill`] do otherwise.

pub mod cgroup;
mod console;
mod handle;
mod launch;
pub mod limits;
mod paging;
mod records;
mod run;

pub use console::{Console, ConsoleHead, console};
pub use handle::{Keeper, WaitError, attach, end};
pub use launch::{LaunchError, Launcher};
pub use records::{Cause, End, ExitRecord, KeeperSpec, PAGER, PagerSpec, Running};
pub use run::{RunError, run};
