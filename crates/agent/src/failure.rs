//! Why the agent could not do what it was asked to.

use connectrpc::{ConnectError, ErrorCode};
use model::{CapsuleId, CapsuleStatus};
use uuid::Uuid;

/// Why an operation on a capsule failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No such capsule on this host.
    #[error("capsule not found")]
    Unknown,
    /// Its record cannot be read: it is left alone until it is destroyed or its record is put back.
    #[error(
        "the record of {0} on its host is damaged; put it back from a backup and restart the agent, or destroy the capsule"
    )]
    Damaged(CapsuleId),
    /// It cannot be done now.
    #[error("the capsule is {0}")]
    State(CapsuleStatus),
    /// A capsule with this id exists.
    #[error("a capsule with this id exists")]
    Exists,
    /// The identifier cannot be read, or a required part is missing.
    #[error("{0}")]
    Invalid(String),
    /// No such template on this host.
    #[error("template {0} is not on this host")]
    Template(Uuid),
    /// No such snapshot on this host.
    #[error("snapshot {0} is not on this host")]
    Snapshot(Uuid),
    /// The disk is too full.
    #[error("not enough disk space: {needed_mb} MiB needed, {free_mb} MiB free")]
    Space {
        /// What the operation may write.
        needed_mb: u64,
        /// What there is.
        free_mb: u64,
    },
    /// The host has too little memory left.
    #[error("not enough memory on the host: {available_mb} MiB available, {needed_mb} MiB needed to start")]
    Memory {
        /// What a start of this size is given room for.
        needed_mb: u64,
        /// What there is.
        available_mb: u64,
    },
    /// The host has as many capsules as it takes.
    #[error("this host takes no more capsules")]
    Full,
    /// Saved memory that this VMM cannot load.
    #[error("the saved memory was made by {saved}, this host runs {here}; resume with memory=discard")]
    Incompatible {
        /// What made it.
        saved: String,
        /// What is here.
        here: String,
    },
    /// The host is to be empty.
    #[error("this host is being emptied for maintenance and starts nothing; `wrenn drain --end` on it ends that")]
    Draining,
    /// The agent is ending.
    #[error("the host's agent is restarting")]
    Stopping,
    /// Something on the host failed.
    #[error("{step}: {why}")]
    Host {
        /// What was being done.
        step: &'static str,
        /// What went wrong.
        why: String,
    },
}

impl Failure {
    /// Wraps an error of the step named.
    pub fn at<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Host { step, why: error.to_string() }
    }
}

impl From<Failure> for ConnectError {
    fn from(failure: Failure) -> Self {
        let code = match failure {
            Failure::Unknown | Failure::Template(_) | Failure::Snapshot(_) => ErrorCode::NotFound,
            Failure::State(_) => ErrorCode::FailedPrecondition,
            Failure::Exists => ErrorCode::AlreadyExists,
            Failure::Invalid(_) => ErrorCode::InvalidArgument,
            Failure::Space { .. } | Failure::Memory { .. } | Failure::Full | Failure::Draining => {
                ErrorCode::ResourceExhausted
            }
            Failure::Incompatible { .. } => {
                return ConnectError::new(
                    ErrorCode::FailedPrecondition,
                    format!("{}{failure}", hostlink::INCOMPATIBLE),
                );
            }
            Failure::Stopping => ErrorCode::Unavailable,
            Failure::Host { .. } | Failure::Damaged(_) => ErrorCode::Internal,
        };
        ConnectError::new(code, failure.to_string())
    }
}
