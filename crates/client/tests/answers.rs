//! What the client makes of answers, on a real connection.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use client::{Client, Credentials, Error};
use model::rest::ExecRequest;
use model::{CapsuleId, Code};
use std::error::Error as StdError;
use std::sync::{Arc, Mutex};

type Outcome = Result<(), Box<dyn StdError>>;

/// The requests a server saw: method and target, then the body.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

#[derive(Clone)]
struct Canned {
    status: u16,
    body: &'static str,
    seen: Seen,
}

async fn answer(State(canned): State<Canned>, request: Request) -> Result<Response, String> {
    let head = format!("{} {}", request.method(), request.uri());
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.map_err(|error| error.to_string())?;
    if let Ok(mut seen) = canned.seen.lock() {
        seen.push((head, String::from_utf8_lossy(&body).into_owned()));
    }
    Response::builder().status(canned.status).body(Body::from(canned.body)).map_err(|error| error.to_string())
}

/// A server that gives every request the same answer.
async fn server(status: u16, body: &'static str) -> Result<(Client, Seen), Box<dyn StdError>> {
    let seen = Seen::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let base_url = format!("http://{}/", listener.local_addr()?);
    let app = Router::new().fallback(answer).with_state(Canned { status, body, seen: seen.clone() });
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((client(base_url)?, seen))
}

fn client(base_url: String) -> Result<Client, Error> {
    Client::new(Credentials { base_url, api_key: "wrn_test".to_owned() })
}

fn id() -> CapsuleId {
    CapsuleId::random()
}

#[tokio::test]
async fn refusals_keep_code_message_and_request_id() -> Outcome {
    let body =
        r#"{"error":{"code":"invalid_state","message":"capsule is paused","request_id":"req_1","retryable":false}}"#;
    let (client, _) = server(409, body).await?;
    let Err(Error::Api { error, request_id }) = client.get(id()).await else { return Err("no refusal".into()) };
    assert_eq!(error, model::Error::new(Code::InvalidState, "capsule is paused"));
    assert_eq!(request_id, "req_1");
    Ok(())
}

#[tokio::test]
async fn answers_of_other_programs_are_recognised() -> Outcome {
    for (status, body) in [(200, "<html>"), (404, "404 page not found"), (200, r#"{"id":1}"#)] {
        let (client, _) = server(status, body).await?;
        let Err(Error::NotThisApi { status: got, .. }) = client.get(id()).await else { return Err(body.into()) };
        assert_eq!(got, status);
    }
    Ok(())
}

#[tokio::test]
async fn endless_answers_are_cut() -> Outcome {
    let long: &'static str = Box::leak(" ".repeat(client::limits::ERROR_BODY_BYTES_MAX + 1).into_boxed_str());
    let (client, _) = server(500, long).await?;
    assert!(matches!(client.get(id()).await, Err(Error::NotThisApi { .. })));
    Ok(())
}

#[tokio::test]
async fn nobody_there_is_unreachable() -> Outcome {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let base_url = format!("http://{}", listener.local_addr()?);
    drop(listener);
    assert!(matches!(client(base_url)?.list().await, Err(Error::Unreachable { .. })));
    Ok(())
}

#[test]
fn addresses_are_checked() {
    for base_url in ["", "127.0.0.1:3000", "ftp://host", "mailto:x"] {
        assert!(matches!(client(base_url.to_owned()), Err(Error::BadAddress { .. })), "{base_url}");
    }
}

#[tokio::test]
async fn requests_are_what_the_api_expects() -> Outcome {
    let (client, seen) = server(200, "{}").await?;
    let id = id();
    let exec = ExecRequest { cmd: "true".to_owned(), background: true, ..ExecRequest::default() };
    let _ = client.exec(id, &exec).await;
    let _ = client.start(id, &ExecRequest { background: false, ..exec }).await;
    let _ = client.kill(id, &client::Selector::Tag("a/b ?".to_owned()), true).await;
    let _ = client.resume(id, true).await;
    let seen = seen.lock().map_err(|error| error.to_string())?.clone();
    let want = [
        (format!("POST /v1/capsules/{id}/exec"), r#"{"cmd":"true"}"#),
        (format!("POST /v1/capsules/{id}/exec"), r#"{"cmd":"true","background":true}"#),
        (format!("DELETE /v1/capsules/{id}/processes/a%2Fb%20%3F?signal=SIGTERM"), ""),
        (format!("POST /v1/capsules/{id}/resume?memory=discard"), ""),
    ];
    assert_eq!(seen, want.map(|(head, body)| (head, body.to_owned())));
    Ok(())
}

#[tokio::test]
async fn uploads_name_their_path_first_and_source_faults_are_not_the_networks() -> Outcome {
    let (client, seen) = server(204, "").await?;
    client.write_file(id(), "/tmp/x", &b"hello"[..]).await?;
    let body = seen.lock().map_err(|error| error.to_string())?.pop().ok_or("nothing seen")?.1;
    let (path, contents) = (body.find("/tmp/x").ok_or("no path")?, body.find("hello").ok_or("no contents")?);
    assert!(path < contents, "{body}");

    let directory = tokio::fs::File::open("/").await?;
    assert!(matches!(client.write_file(id(), "/tmp/x", directory).await, Err(Error::Source(_))));
    Ok(())
}

#[tokio::test]
async fn downloads_arrive_whole() -> Outcome {
    let (client, _) = server(200, "contents").await?;
    let mut download = client.read_file(id(), "/x").await?;
    let mut got = Vec::new();
    while let Some(chunk) = download.chunk().await? {
        got.extend_from_slice(&chunk);
    }
    assert_eq!(got, b"contents");
    Ok(())
}
