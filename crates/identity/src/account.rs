//! Accounts: the first one, and logging in.

use crate::{Identity, IdentityError, KeySecret};
use model::{Secret, TeamId, UserId};
use store::FirstAccount;

/// Address of the first user.
const FIRST_EMAIL: &str = "admin@localhost";
/// Digits of a generated password: 119 bits.
const PASSWORD_DIGITS: usize = 20;
const PASSWORD_ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// What a new installation tells its owner, once.
#[derive(Debug, Clone)]
pub struct FirstLogin {
    /// Address of the administrator.
    pub email: String,
    /// His password.
    pub password: Secret,
    /// His team.
    pub team: TeamId,
    /// The team's first key.
    pub key: KeySecret,
}

/// A user who logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Which.
    pub id: UserId,
    /// Its address.
    pub email: String,
    /// Administrator of the platform.
    pub is_admin: bool,
}

impl Identity {
    /// On a new installation: makes an administrator, his team and its first key, all random, and answers them.
    /// Nothing when somebody has an account already.
    pub async fn bootstrap(&self) -> Result<Option<FirstLogin>, IdentityError> {
        if !self.store.has_no_users().await? {
            return Ok(None);
        }
        let password = random_password();
        let key = KeySecret::random();
        let (user, team) = (UserId::random(), TeamId::random());
        let first = FirstAccount {
            user,
            email: FIRST_EMAIL.to_owned(),
            password_hash: self.hash_password(password.clone()).await?,
            team,
            team_name: "Default".to_owned(),
            team_slug: random_slug(),
            key: key.row("First key".to_owned(), Some(user)),
        };
        self.store.add_first_account(first).await?;
        Ok(Some(FirstLogin { email: FIRST_EMAIL.to_owned(), password: Secret::new(password), team, key }))
    }

    /// Checks an address and a password. It takes as long for an address nobody has.
    pub async fn log_in(&self, email: &str, password: &Secret) -> Result<User, IdentityError> {
        let user = self.store.user_by_email(&email.trim().to_lowercase()).await?;
        let stored = user.as_ref().and_then(|user| user.password_hash.clone());
        let fits = self.password_fits(password.expose().to_owned(), stored).await?;
        match user {
            Some(user) if fits && user.active => Ok(User { id: user.id, email: user.email, is_admin: user.is_admin }),
            Some(_) if fits => Err(IdentityError::Inactive),
            _ => Err(IdentityError::WrongLogin),
        }
    }
}

fn random_password() -> String {
    (0..PASSWORD_DIGITS)
        .map(|_| char::from(PASSWORD_ALPHABET[rand::random_range(0..PASSWORD_ALPHABET.len())]))
        .collect()
}

fn random_slug() -> String {
    let half = || hex::encode(rand::random::<[u8; 3]>());
    format!("{}-{}", half(), half())
}
