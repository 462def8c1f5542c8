//! API keys: one secret, two spellings.

use crate::{Identity, IdentityError};
use chrono::Utc;
use model::{KeyId, TeamId, UserId};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use store::{ApiKey, NewKey};
use subtle::ConstantTimeEq;

/// Bytes of a secret.
const SECRET_BYTES: usize = 16;
/// Prefixes of the two spellings.
const WRENN: &str = "wrn_";
const E2B: &str = "e2b_";
/// What is shown of a key: `wrn_` and six digits.
const SHOWN: usize = 10;
/// Longest name of a key in bytes.
const NAME_BYTES_MAX: usize = 128;
/// How long a key that was looked up is trusted without looking again. A key revoked by another server lives on
/// for as long; it is also how exactly `last_used` is kept.
const TRUSTED: Duration = Duration::from_secs(10);
/// Most keys remembered.
const RECENT_MAX: usize = 10_000;

/// The secret of an API key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySecret([u8; SECRET_BYTES]);

impl KeySecret {
    /// A new random one.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// As Wrenn clients send it.
    #[must_use]
    pub fn wrenn(&self) -> String {
        format!("{WRENN}{}", hex::encode(self.0))
    }

    /// As E2B clients send it.
    #[must_use]
    pub fn e2b(&self) -> String {
        format!("{E2B}{}", hex::encode(self.0))
    }

    fn hash(&self) -> Hash {
        Hash(Sha256::digest(self.0).into())
    }

    /// A row for it.
    pub(crate) fn row(&self, name: String, created_by: Option<UserId>) -> NewKey {
        let mut prefix = self.wrenn();
        prefix.truncate(SHOWN);
        NewKey { id: KeyId::random(), name, hash: self.hash().to_string(), prefix, created_by }
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret(..)")
    }
}

impl FromStr for KeySecret {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let digits = text.strip_prefix(WRENN).or_else(|| text.strip_prefix(E2B)).ok_or(IdentityError::UnknownKey)?;
        let mut secret = [0; SECRET_BYTES];
        hex::decode_to_slice(digits, &mut secret).map_err(|_| IdentityError::UnknownKey)?;
        Ok(Self(secret))
    }
}

/// What is stored of a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Hash([u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Whoever shows a valid key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Acts for this team.
    pub team: TeamId,
    /// By this key.
    pub key: KeyId,
    /// The key's name.
    pub key_name: String,
}

/// Keys that were looked up lately.
#[derive(Default)]
pub(crate) struct Recent(Mutex<HashMap<Hash, (Principal, Instant)>>);

impl Recent {
    fn map(&self) -> MutexGuard<'_, HashMap<Hash, (Principal, Instant)>> {
        // Nothing panics with the lock held, and a map is whole at every point.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, hash: Hash) -> Option<Principal> {
        self.map().get(&hash).filter(|(_, at)| at.elapsed() < TRUSTED).map(|(principal, _)| principal.clone())
    }

    fn keep(&self, hash: Hash, principal: Principal) {
        let mut map = self.map();
        if map.len() >= RECENT_MAX {
            map.retain(|_, (_, at)| at.elapsed() < TRUSTED);
        }
        if map.len() < RECENT_MAX {
            map.insert(hash, (principal, Instant::now()));
        }
    }

    fn forget(&self, key: KeyId) {
        self.map().retain(|_, (principal, _)| principal.key != key);
    }
}

impl Identity {
    /// Who shows this key, in either spelling.
    pub async fn authenticate_key(&self, text: &str) -> Result<Principal, IdentityError> {
        let hash = text.parse::<KeySecret>()?.hash();
        if let Some(principal) = self.recent.get(hash) {
            return Ok(principal);
        }
        let digits = hash.to_string();
        let owner = self.store.key_by_hash(&digits).await?.ok_or(IdentityError::UnknownKey)?;
        // The index compared it already, but how long an index takes is not ours to say.
        if !bool::from(owner.hash.as_bytes().ct_eq(digits.as_bytes())) {
            return Err(IdentityError::UnknownKey);
        }
        self.store.touch_key(owner.key.id, Utc::now()).await?;
        let principal = Principal { team: owner.key.team, key: owner.key.id, key_name: owner.key.name };
        self.recent.keep(hash, principal.clone());
        Ok(principal)
    }

    /// Makes a key for a team. The secret is not stored: this is the only time it is seen.
    pub async fn create_key(
        &self,
        team: TeamId,
        name: Option<&str>,
        created_by: Option<UserId>,
    ) -> Result<(ApiKey, KeySecret), IdentityError> {
        let name = name.map(str::trim).filter(|name| !name.is_empty()).unwrap_or("Unnamed API Key");
        if name.len() > NAME_BYTES_MAX {
            return Err(IdentityError::Invalid(format!("a key's name may have {NAME_BYTES_MAX} bytes")));
        }
        let secret = KeySecret::random();
        let key = self.store.add_key(team, secret.row(name.to_owned(), created_by)).await?;
        Ok((key, secret))
    }

    /// A team's keys, newest first.
    pub async fn keys(&self, team: TeamId) -> Result<Vec<ApiKey>, IdentityError> {
        Ok(self.store.keys(team).await?)
    }

    /// Removes a team's key; it is refused from now on. False when the team has no such key.
    pub async fn revoke_key(&self, team: TeamId, key: KeyId) -> Result<bool, IdentityError> {
        let removed = self.store.remove_key(team, key).await?;
        if removed {
            self.recent.forget(key);
        }
        Ok(removed)
    }
}
