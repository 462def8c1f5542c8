//! Why somebody is not let in.

use model::{Code, Error};
use store::StoreError;

/// Why somebody is not let in, or an account cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not a key we know.
    #[error("this API key is not valid")]
    UnknownKey,
    /// No such user, or another password. Which of the two is nobody's business.
    #[error("wrong e-mail address or password")]
    WrongLogin,
    /// The user may not log in.
    #[error("this account is not active")]
    Inactive,
    /// A name that cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// A password could not be hashed.
    #[error("hashing a password failed: {0}")]
    Hash(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<IdentityError> for Error {
    fn from(error: IdentityError) -> Self {
        let message = error.to_string();
        match error {
            IdentityError::UnknownKey | IdentityError::WrongLogin => Self::new(Code::Unauthorized, message),
            IdentityError::Inactive => Self::new(Code::Forbidden, message),
            IdentityError::Invalid(_) => Self::invalid(message),
            IdentityError::Hash(_) => {
                tracing::error!(%error, "identity");
                Self::new(Code::Internal, "the server could not check a password")
            }
            IdentityError::Store(error) => error.into(),
        }
    }
}
