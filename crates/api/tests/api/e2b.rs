//! E2B's API and its way to ports, as its SDKs use them.

use crate::support::Api;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use futures_util::{StreamExt, stream};
use proto::hostagent::v1 as wire;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Says what it was asked; `/stream` never ends.
fn program() -> axum::Router {
    let events = || async {
        let first = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"first")) });
        Body::from_stream(first.chain(stream::pending()))
    };
    let seen = |request: Request| async move {
        let key = request.headers().get("x-api-key").map_or("-", |key| key.to_str().unwrap_or_default());
        format!("{} {} {key}", request.method(), request.uri())
    };
    axum::Router::new().route("/stream", axum::routing::get(events)).fallback(seen)
}

async fn create(api: &Api, body: Value) -> Value {
    let answer = api.post("/v2/sandboxes", body).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    answer.json().await.unwrap()
}

fn to_port(api: &Api, path: &str, id: &str, port: &str) -> RequestBuilder {
    api.bare(Method::GET, path).header("E2b-Sandbox-Id", id).header("E2b-Sandbox-Port", port)
}

#[tokio::test]
async fn a_sandbox_lives() {
    let api = Api::start().await;
    let answer = api.bare(Method::POST, "/sandboxes").header("x-api-key", &api.e2b_key);
    let answer = answer.body(r#"{"templateID":"base","timeout":120,"secure":true,"allow_internet_access":true,"metadata":{"a":"b c"},"envVars":{}}"#);
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    let made: Value = answer.json().await.unwrap();
    let id = made["sandboxID"].as_str().unwrap();
    assert!(id.len() == 25 && !id.contains('-'), "{id}");
    assert_eq!((&made["envdVersion"], &made["domain"]), (&json!("0.6.9"), &Value::Null));
    for field in ["templateID", "clientID", "envdAccessToken"] {
        assert!(made[field].as_str().is_some_and(|text| !text.is_empty()), "{made}");
    }

    let seen: Value = api.get(&format!("/sandboxes/{id}")).await.json().await.unwrap();
    assert_eq!(
        (&seen["state"], &seen["metadata"]["a"], &seen["lifecycle"]["onTimeout"]),
        (&json!("running"), &json!("b c"), &json!("kill"))
    );
    for field in ["startedAt", "endAt", "cpuCount", "memoryMB", "diskSizeMB"] {
        assert!(!seen[field].is_null(), "{field}: {seen}");
    }
    let at = format!("/sandboxes/{id}");
    let status = async |method: Method, rest: &str, body: &'static str| {
        api.request(method, &format!("{at}{rest}")).body(body).send().await.unwrap().status().as_u16()
    };
    assert_eq!(status(Method::POST, "/timeout", r#"{"timeout":600}"#).await, 204);
    let end = api.get(&at).await.json::<Value>().await.unwrap()["endAt"].clone();
    assert_eq!(status(Method::POST, "/connect", r#"{"timeout":1}"#).await, 200);
    assert_eq!(api.get(&at).await.json::<Value>().await.unwrap()["endAt"], end, "connect never shortens");
    assert_eq!(status(Method::POST, "/pause", "").await, 204);
    assert_eq!(status(Method::POST, "/pause", "{}").await, 409);
    assert_eq!(api.get(&at).await.json::<Value>().await.unwrap()["state"], "paused");
    let resumed = api.post(&format!("/v2/sandboxes/{id}/connect"), json!({"timeout": 90})).await;
    assert_eq!(resumed.status(), StatusCode::CREATED);
    assert_eq!(resumed.json::<Value>().await.unwrap()["envdAccessToken"], made["envdAccessToken"]);
    assert_eq!(status(Method::POST, "/resume", "{}").await, 409);
    assert_eq!(status(Method::POST, "/refreshes", r#"{"duration":5}"#).await, 204);
    assert_eq!(api.get(&format!("{at}/metrics")).await.json::<Value>().await.unwrap(), json!([]));
    assert_eq!(api.get(&format!("{at}/logs")).await.json::<Value>().await.unwrap()["logEntries"], json!([]));
    assert_eq!(status(Method::DELETE, "", "").await, 204);
    assert_eq!(status(Method::DELETE, "", "").await, 404);
    assert_eq!(status(Method::GET, "", "").await, 404);
    assert_eq!(status(Method::POST, "/connect", r#"{"timeout":1}"#).await, 404);
}

#[tokio::test]
async fn what_a_sandbox_may_reach() {
    let api = Api::start().await;
    let body = r#"{"templateID":"base","network":{"allowOut":["1.1.1.1"],"denyOut":["0.0.0.0/0"],"allowPublicTraffic":true,"rules":{}}}"#;
    let made = create(&api, serde_json::from_str(body).unwrap()).await;
    let at = format!("/sandboxes/{}", made["sandboxID"].as_str().unwrap());
    let seen: Value = api.get(&at).await.json().await.unwrap();
    assert_eq!(seen["network"], json!({"allowOut": ["1.1.1.1/32"], "denyOut": ["0.0.0.0/0"]}));
    let told = || {
        let world = api.agent.world();
        let egress = world.sandboxes.values().next().unwrap().egress.as_option().unwrap().clone();
        (egress.allow_internet, egress.allow.join(" "), egress.deny.join(" "))
    };
    assert_eq!(told(), (false, "1.1.1.1/32".to_owned(), "0.0.0.0/0".to_owned()), "names are not resolved either");
    for (body, want) in [
        (r#"{"denyOut":["8.0.0.0/8"],"egressProxy":null}"#, (true, "", "8.0.0.0/8")),
        (r#"{"allow_internet_access":false,"allowOut":["9.9.9.9"]}"#, (false, "9.9.9.9/32", "")),
        ("{}", (true, "", "")),
    ] {
        let answer = api.request(Method::PUT, &format!("{at}/network")).body(body).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT, "{body}");
        assert_eq!(told(), (want.0, want.1.to_owned(), want.2.to_owned()), "{body}");
    }
    let refused =
        api.request(Method::PUT, &format!("{at}/network")).body(r#"{"allowOut":["a.example"]}"#).send().await.unwrap();
    let refused: Value = refused.json().await.unwrap();
    assert!(refused["message"].as_str().unwrap().starts_with("allowOut: \"a.example\""), "{refused}");
    let both = json!({"templateID": "base", "allow_internet_access": false, "network": {"allowOut": ["1.1.1.1"]}});
    create(&api, both).await;
}

#[tokio::test]
async fn what_sandboxes_used() {
    let api = Api::start().await;
    let ids = [create(&api, json!({"templateID": "base"})).await, create(&api, json!({"templateID": "base"})).await];
    let [first, second] = ids.map(|made| made["sandboxID"].as_str().unwrap().to_owned());
    let now = u64::try_from(chrono::Utc::now().timestamp()).unwrap();
    let point = |unix_ms, guest_mem_used_bytes| wire::MetricPoint {
        unix_ms,
        cpu_pct: 50.0,
        mem_bytes: 1 << 40,
        disk_bytes: 1 << 20,
        guest_mem_used_bytes,
        ..Default::default()
    };
    api.agent.world().metrics =
        vec![point(now * 1000, None), point(now * 1000 + 500, Some(9)), point(now * 1000 + 1000, Some(9))];
    let metrics = async |query: String| -> Vec<Value> {
        api.get(&format!("/sandboxes/{first}/metrics?{query}")).await.json().await.unwrap()
    };
    let all = metrics(String::new()).await;
    assert_eq!(all.len(), 3, "the two of one second stay two");
    assert!(api.agent.world().window_ms <= 60_000, "no further back than it lives");
    let total = 512_u64 << 20;
    assert_eq!(
        all[0],
        json!({"timestamp": all[0]["timestamp"], "timestampUnix": now, "cpuCount": 1, "cpuUsedPct": 50.0, "memUsed": total,
               "memTotal": total, "memCache": 0, "diskUsed": 1 << 20, "diskTotal": 5_368_709_120_u64})
    );
    let times: Vec<_> = all
        .iter()
        .map(|point| point["timestamp"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap())
        .collect();
    assert_eq!(
        times.iter().map(|time| time.timestamp_millis().unsigned_abs()).collect::<Vec<_>>(),
        [now * 1000, now * 1000 + 500, now * 1000 + 1000]
    );
    assert_eq!(all[1]["memUsed"], 9, "as its guest says");
    for (query, count) in [
        (format!("start={now}"), 3),
        (format!("end={now}"), 2),
        (format!("start={}&end={}", now + 1, now + 1), 1),
        (format!("start={}", now + 9), 0),
        ("end=0".to_owned(), 0),
    ] {
        assert_eq!(metrics(query.clone()).await.len(), count, "{query}");
    }
    assert_eq!(api.request(Method::POST, &format!("/sandboxes/{second}/pause")).send().await.unwrap().status(), 204);
    let other = api.bare(Method::GET, &format!("/sandboxes/{first}/metrics")).header("x-api-key", &api.other_key);
    assert_eq!(other.send().await.unwrap().status(), StatusCode::NOT_FOUND);

    let path = format!("/sandboxes/metrics?sandbox_ids={first},{second},0000000000000000000000000,x");
    let newest: Value = api.get(&path).await.json().await.unwrap();
    assert_eq!(newest, json!({"sandboxes": {&first: all[2]}}), "of those that run");
    let others: Value =
        api.bare(Method::GET, &path).header("x-api-key", &api.other_key).send().await.unwrap().json().await.unwrap();
    assert_eq!(others, json!({"sandboxes": {}}), "another team's are not there");
}

#[tokio::test]
async fn lists_have_filters_and_pages() {
    let api = Api::start().await;
    let mut ids = Vec::new();
    for n in 0..3 {
        let made = create(&api, json!({"templateID": "base", "metadata": {"n": n.to_string(), "all": "y s"}})).await;
        ids.push(made["sandboxID"].as_str().unwrap().to_owned());
    }
    assert_eq!(api.request(Method::POST, &format!("/sandboxes/{}/pause", ids[1])).send().await.unwrap().status(), 204);
    let list = async |query: &str| {
        let answer = api.get(&format!("/v2/sandboxes?{query}")).await;
        let next = answer.headers().get("x-next-token").map(|t| t.to_str().unwrap().to_owned());
        let sandboxes: Vec<Value> = answer.json().await.unwrap();
        let of = |s: &Value| ids.iter().position(|id| s["sandboxID"] == **id).unwrap();
        (sandboxes.iter().map(of).collect::<Vec<_>>(), next)
    };
    for (query, want) in [
        ("", vec![2, 1, 0]),
        ("state=running", vec![2, 0]),
        ("state=paused", vec![1]),
        ("state=running,paused&order=asc", vec![0, 1, 2]),
        ("metadata=n%3D1", vec![1]),
        ("metadata=all%3Dy%252520s", vec![2, 1, 0]),
        ("metadata=all%3Dy%252520s%26n%3D2", vec![2]),
        ("metadata=n%3D9", vec![]),
        ("template=nope", vec![]),
        ("startedAfter=2099-01-01T00%3A00%3A00Z", vec![]),
    ] {
        assert_eq!(list(query).await, (want, None), "{query}");
    }
    let (first, next) = list("limit=2").await;
    assert_eq!(first, [2, 1]);
    let (second, next) = list(&format!("limit=1&nextToken={}", next.unwrap())).await;
    assert_eq!((second, next), (vec![0], None), "a full last page has no token");
}

#[tokio::test]
async fn ports_are_found_by_headers_and_by_host_names() {
    let api = Api::with_program(program()).await;
    let made = create(&api, json!({"templateID": "base"})).await;
    let id = made["sandboxID"].as_str().unwrap();
    let text = async |request: RequestBuilder| request.send().await.unwrap().text().await.unwrap();
    // Routing headers make even the API's own paths the sandbox's.
    assert_eq!(text(to_port(&api, "/health", id, "49983")).await, "GET /health -");
    assert_eq!(text(to_port(&api, "/a%2Fb/?q", id, "8080").header("x-api-key", &api.key)).await, "GET /a%2Fb/?q -");
    for host in [format!("8080-{id}.example.com"), format!("8080-cl-{id}.localhost:8000")] {
        let request = api.bare(Method::GET, "/v1/capsules/").header("host", &host).header("x-api-key", "their own");
        assert_eq!(text(request).await, "GET /v1/capsules/ their own", "{host}");
    }
    for (request, status, message) in [
        (to_port(&api, "/", "x", "80"), 502, "The sandbox was not found"),
        (to_port(&api, "/", "0000000000000000000000000", "80"), 502, "The sandbox was not found"),
        (to_port(&api, "/", id, "1"), 502, "The sandbox is running but port is not open"),
        (to_port(&api, "/", id, "x"), 400, "E2b-Sandbox-Port must be from 1 to 65535"),
        (to_port(&api, "/init", id, "49983"), 404, "Not found"),
        (
            api.bare(Method::GET, "/").header("E2b-Sandbox-Id", id),
            400,
            "The headers E2b-Sandbox-Id and E2b-Sandbox-Port go together",
        ),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{message}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["code"], status, "{body}");
        assert!(body["message"].as_str().is_some_and(|text| text.eq_ignore_ascii_case(message)), "{body}");
    }
    assert_eq!(api.request(Method::POST, &format!("/sandboxes/{id}/pause")).send().await.unwrap().status(), 204);
    let paused = to_port(&api, "/health", id, "49983").send().await.unwrap();
    assert_eq!(
        (paused.status().as_u16(), paused.json::<Value>().await.unwrap()["message"].as_str()),
        (502, Some("The sandbox was not found"))
    );
}

#[tokio::test]
async fn signed_urls_name_no_sandbox() {
    let api = Api::with_program(program()).await;
    let (made, _) =
        (create(&api, json!({"templateID": "base"})).await, create(&api, json!({"templateID": "base"})).await);
    let token = made["envdAccessToken"].as_str().unwrap();
    let signature = STANDARD_NO_PAD.encode(Sha256::digest(format!("/a b.txt:read::{token}")));
    let mut url = reqwest::Url::parse(&format!("{}/files", api.base)).unwrap();
    url.query_pairs_mut().append_pair("path", "/a b.txt").append_pair("signature", &format!("v1_{signature}"));
    let path = format!("/files?{}", url.query().unwrap());
    let answer = api.bare(Method::GET, &path).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), format!("GET {path} -"));
    let answer = api.bare(Method::GET, "/files?path=/x&signature=v1_x").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_kill_resets_open_streams() {
    let api = Api::with_program(program()).await;
    let made = create(&api, json!({"templateID": "base"})).await;
    let id = made["sandboxID"].as_str().unwrap();
    let mut socket = TcpStream::connect(api.address).await.unwrap();
    let head =
        format!("GET /stream HTTP/1.1\r\nhost: localhost\r\ne2b-sandbox-id: {id}\r\ne2b-sandbox-port: 49983\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"first\r\n") {
        got.push(socket.read_u8().await.unwrap());
    }
    assert_eq!(api.request(Method::DELETE, &format!("/sandboxes/{id}")).send().await.unwrap().status(), 204);
    let error = socket.read(&mut [0; 64]).await.expect_err("a reset, not an end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let health = to_port(&api, "/health", id, "49983").send().await.unwrap();
    assert_eq!(
        (health.status().as_u16(), health.json::<Value>().await.unwrap()["message"].as_str()),
        (502, Some("The sandbox was not found"))
    );
}

#[tokio::test]
async fn snapshots_are_templates_until_they_are_deleted() {
    let api = Api::start().await;
    let id = api.running().await.trim_start_matches("cl-").to_owned();
    let take = async |body: Value| -> Value {
        let taken = api.post(&format!("/sandboxes/{id}/snapshots"), body).await;
        assert_eq!(taken.status(), StatusCode::CREATED);
        taken.json().await.unwrap()
    };
    let former = take(json!({"name": "mine"})).await;
    let named = take(json!({"name": "mine"})).await;
    assert_ne!(named["snapshotID"], former["snapshotID"]);
    assert_eq!(named["names"], json!(["mine"]));
    let unnamed = take(json!({})).await;
    assert_eq!(unnamed["names"], json!([]));

    let first = api.get(&format!("/snapshots?sandboxID={id}&limit=1")).await;
    let token = first.headers()["x-next-token"].to_str().unwrap().to_owned();
    assert_eq!(first.json::<Value>().await.unwrap(), json!([unnamed]));
    let second = api.get(&format!("/snapshots?limit=1&nextToken={token}")).await;
    assert!(second.headers().get("x-next-token").is_none());
    assert_eq!(second.json::<Value>().await.unwrap(), json!([named]));
    assert_eq!(api.get("/snapshots?nextToken=x").await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(api.get("/snapshots?name=mine:default").await.json::<Value>().await.unwrap(), json!([named]));
    let foreign = api.bare(Method::GET, "/snapshots").header("x-api-key", &api.other_key).send().await.unwrap();
    assert_eq!(foreign.json::<Value>().await.unwrap(), json!([]));

    for snapshot in [&named, &unnamed] {
        let snapshot_id = snapshot["snapshotID"].as_str().unwrap();
        let made = api.post("/v2/sandboxes", json!({"templateID": snapshot_id})).await;
        assert_eq!(made.status(), StatusCode::CREATED);
        for status in [StatusCode::NO_CONTENT, StatusCode::NOT_FOUND] {
            let gone = api.request(Method::DELETE, &format!("/templates/{snapshot_id}")).send().await.unwrap();
            assert_eq!(gone.status(), status);
        }
    }
    let odd = api.request(Method::DELETE, "/templates/ns%2Fsnap%3Av1").send().await.unwrap();
    assert_eq!(odd.status(), StatusCode::NOT_FOUND);
}
