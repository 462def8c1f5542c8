//! Why a query failed.

use model::{Code, Error};
use sea_orm::{DbErr, SqlErr};

/// Why a query failed. None of it is for a client's eyes.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A name or a hash that must be unique exists already.
    #[error("exists already: {0}")]
    Duplicate(String),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(String),
    /// A stored value cannot be read.
    #[error("the database holds something unreadable: {0}")]
    Unreadable(String),
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        match error.sql_err() {
            Some(SqlErr::UniqueConstraintViolation(what)) => Self::Duplicate(what),
            _ => Self::Database(error.to_string()),
        }
    }
}

impl From<StoreError> for Error {
    /// Logs the cause, and says no more than that there was one.
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "store");
        Self::new(Code::Internal, "the server's database failed")
    }
}

/// A stored value that does not read as what it should be.
pub(crate) fn unreadable(what: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Unreadable(format!("{what}: {why}"))
}
