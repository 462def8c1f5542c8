//! First account, keys and passwords on a real database.
#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers are not `#[test]`s, so clippy.toml does not cover them.

use identity::{Identity, IdentityError, KeySecret};
use model::{Secret, TeamId};
use store::{Options, Store};

async fn identity(directory: &std::path::Path) -> (Identity, Store) {
    let store = Store::open(&Options { directory: directory.to_owned(), database_url: None }).await.unwrap();
    (Identity::new(store.clone()), store)
}

#[tokio::test]
async fn the_first_start_makes_an_account_and_later_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let (identity, _) = identity(dir.path()).await;
    let first = identity.bootstrap().await.unwrap().unwrap();
    assert!(identity.bootstrap().await.unwrap().is_none());

    for spelling in [first.key.wrenn(), first.key.e2b()] {
        assert_eq!(identity.authenticate_key(&spelling).await.unwrap().team, first.team);
    }
    let user = identity.log_in(" Admin@Localhost ", &first.password).await.unwrap();
    assert!(user.is_admin);
    for (email, password) in [(first.email.as_str(), "wrong"), ("nobody@localhost", first.password.expose())] {
        let login = identity.log_in(email, &Secret::new(password)).await;
        assert!(matches!(login, Err(IdentityError::WrongLogin)), "{email}");
    }
}

#[tokio::test]
async fn a_key_works_until_it_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let (identity, _) = identity(dir.path()).await;
    let team = identity.bootstrap().await.unwrap().unwrap().team;
    let (key, secret) = identity.create_key(team, Some(" laptop "), None).await.unwrap();
    assert_eq!((key.name.as_str(), key.last_used), ("laptop", None));
    assert!(secret.wrenn().starts_with(&key.prefix));

    assert_eq!(identity.authenticate_key(&secret.wrenn()).await.unwrap().key, key.id);
    let listed = identity.keys(team).await.unwrap();
    assert_eq!(listed.first().map(|key| key.id), Some(key.id), "newest first");
    assert!(listed[0].last_used.is_some());

    assert!(!identity.revoke_key(TeamId::PLATFORM, key.id).await.unwrap(), "another team's");
    assert!(identity.authenticate_key(&secret.e2b()).await.is_ok());
    assert!(identity.revoke_key(team, key.id).await.unwrap());
    assert!(matches!(identity.authenticate_key(&secret.e2b()).await, Err(IdentityError::UnknownKey)));
}

#[tokio::test]
async fn what_is_not_a_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (identity, _) = identity(dir.path()).await;
    let good = KeySecret::random().wrenn();
    let (short, long, other) = (&good[..35], format!("{good}0"), good.replace("wrn_", "sk-_"));
    for text in ["", "wrn_", "e2b_zz", short, &long, &other, &good, "wrn_ÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄ"] {
        assert!(matches!(identity.authenticate_key(text).await, Err(IdentityError::UnknownKey)), "{text}");
    }
}
