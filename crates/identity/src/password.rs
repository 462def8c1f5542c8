//! Passwords: argon2id with the parameters OWASP recommends, which are the crate's defaults.

use crate::{Identity, IdentityError};
use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash};

impl Identity {
    pub(crate) async fn hash_password(&self, password: String) -> Result<String, IdentityError> {
        self.hashing(move || {
            let hash = Argon2::default().hash_password(password.as_bytes());
            hash.map(|hash| hash.to_string()).map_err(|error| IdentityError::Hash(error.to_string()))
        })
        .await?
    }

    /// Whether a password belongs to a stored hash. Without a hash it takes as long, and is false.
    pub(crate) async fn password_fits(&self, password: String, stored: Option<String>) -> Result<bool, IdentityError> {
        self.hashing(move || match stored.as_deref().map(PasswordHash::new) {
            Some(Ok(hash)) => Ok(Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()),
            Some(Err(error)) => Err(IdentityError::Hash(error.to_string())),
            None => {
                let _ = Argon2::default().hash_password(password.as_bytes());
                Ok(false)
            }
        })
        .await?
    }

    /// Runs work that takes a core, where it holds nobody else up.
    async fn hashing<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, IdentityError> {
        let failed = |error: &dyn std::fmt::Display| IdentityError::Hash(error.to_string());
        let _turn = self.hashing.acquire().await.map_err(|error| failed(&error))?;
        tokio::task::spawn_blocking(work).await.map_err(|error| failed(&error))
    }
}
