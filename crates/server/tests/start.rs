//! A whole server, from an empty directory.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use model::rest::Credentials;
use server::{Options, Server, StartError};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn options(dir: &Path) -> Options {
    Options {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        dir: dir.to_owned(),
        database_url: None,
        agent_socket: Some(dir.join("run/agent.sock")),
        version: "test",
    }
}

fn credentials(dir: &Path) -> Credentials {
    serde_json::from_slice(&std::fs::read(dir.join("credentials.json")).unwrap()).unwrap()
}

async fn list(credentials: &Credentials, key: &str) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/v1/capsules", credentials.base_url);
    client.get(url).header("X-API-Key", key).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_new_installation_tells_how_to_get_in_and_a_restart_keeps_it() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new");
    let server = Server::start(options(&dir)).await.unwrap();
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    let first = credentials(&dir);
    assert_eq!(first.base_url, server.base_url());
    for key in [&first.api_key, &first.e2b_api_key] {
        assert_eq!(list(&first, key).await, 200);
    }
    assert_eq!(list(&first, "wrn_x").await, 401);
    server.stop().await;

    let server = loop {
        // The database is free once the last task of the former server has let go of it.
        match Server::start(options(&dir)).await {
            Err(StartError::Database(store::OpenError::InUse(_))) => tokio::task::yield_now().await,
            other => break other.unwrap(),
        }
    };
    let second = credentials(&dir);
    assert_eq!((&second.api_key, second.base_url.as_str()), (&first.api_key, server.base_url()));
    assert_eq!(list(&second, &first.api_key).await, 200);
}

#[tokio::test]
async fn what_is_in_use_is_named() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(options(one.path())).await.unwrap();
    let address = server.base_url().trim_start_matches("http://").parse().unwrap();
    let again = Server::start(Options { listen: address, ..options(two.path()) }).await;
    assert!(matches!(again, Err(StartError::AddressInUse(in_use)) if in_use == address));
    let again = Server::start(options(one.path())).await;
    assert!(matches!(again, Err(StartError::Database(store::OpenError::InUse(_)))));
}
