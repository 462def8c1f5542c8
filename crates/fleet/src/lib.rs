//! Capsules, hosts, scheduling and templates.
//!
//! Knows: what may be asked of a capsule in which status, on which host it is placed, how an operation is carried
//! through at the agent until it is known to have worked or failed, and how what hosts report is brought together
//! with what the database says. Status changes are decided by `lifecycle::server` and written by `store`, and only
//! by a conditional write: whoever loses a race gives way.
//! Must never know: HTTP, SQL text.
//!
//! An operation outlives its caller: [`Fleet::create`] and friends write the new status together with a row that
//! describes the operation and return; a task finishes it, after a restart of the server if need be.

mod apply;
mod coalesce;
mod convert;
mod egress;
mod fleet;
mod fork;
mod guest;
mod hosts;
mod lifetime;
mod metrics;
mod operation;
mod reconcile;
mod request;
mod schedule;
mod templates;

pub use fleet::Fleet;
pub use guest::{
    Command, ExecOutput, FileContent, Guest, Input, ProcessEvent, ProcessStream, PtySize, Selector, Signal, Started,
};
pub use request::{Create, Cursor, Filter, Fork, LocalHost, Page, Resume, Route, SaveTemplate, Surface, Until};
