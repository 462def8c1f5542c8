//! Everything a client can do wrong, and what it hears.

use crate::support::Api;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

const UNKNOWN: &str = "cl-0000000000000000000000000";

const UNKNOWN_SAVED: &str = r#"{"sandbox_id":"cl-0000000000000000000000000"}"#;
const BADLY_NAMED: &str = r#"{"sandbox_id":"cl-0000000000000000000000000","name":"a/b"}"#;
const RESERVED: &str = r#"{"sandbox_id":"cl-0000000000000000000000000","name":"base"}"#;

/// Method, path, key, body, and the answer's status and code.
struct Row(&'static str, Method, String, Key, Body, u16, &'static str);

enum Key {
    Own,
    Other,
    Wrong,
    None,
}

enum Body {
    Empty,
    Text(&'static str),
    Huge,
    Form(&'static [(&'static str, &'static str)]),
    HugeForm,
}

fn rows(running: &str, paused: &str) -> Vec<Row> {
    let get = |what, path: String, key, status, code| Row(what, Method::GET, path, key, Body::Empty, status, code);
    let post = |what, path: String, body, status, code| Row(what, Method::POST, path, Key::Own, body, status, code);
    let delete =
        |what, path: String, key, status, code| Row(what, Method::DELETE, path, key, Body::Empty, status, code);
    let capsule = |id: &str, rest: &str| format!("/v1/capsules/{id}{rest}");
    let on = |rest: &str| capsule(running, rest);
    vec![
        get("no key", "/v1/capsules".into(), Key::None, 401, "unauthorized"),
        get("wrong key", "/v1/capsules".into(), Key::Wrong, 401, "unauthorized"),
        get("unknown route", "/v1/nothing".into(), Key::Own, 404, "not_found"),
        get("unknown route without a key", "/v1/nothing".into(), Key::None, 404, "not_found"),
        Row("unknown method", Method::PUT, "/v1/capsules".into(), Key::Own, Body::Empty, 405, "method_not_allowed"),
        get("unknown id", capsule(UNKNOWN, ""), Key::Own, 404, "not_found"),
        get("malformed id", capsule("cl-1", ""), Key::Own, 400, "invalid_request"),
        get("path traversal in the id", capsule("..%2F..%2Fetc", ""), Key::Own, 400, "invalid_request"),
        get("another team's id", on(""), Key::Other, 404, "not_found"),
        Row("destroying another team's", Method::DELETE, on(""), Key::Other, Body::Empty, 404, "not_found"),
        post("unknown template", "/v1/capsules".into(), Body::Text(r#"{"template":"nope"}"#), 404, "not_found"),
        post(
            "template with a path",
            "/v1/capsules".into(),
            Body::Text(r#"{"template":"../x"}"#),
            400,
            "invalid_request",
        ),
        post("too many CPUs", "/v1/capsules".into(), Body::Text(r#"{"vcpus":1000}"#), 400, "invalid_request"),
        post("negative timeout", "/v1/capsules".into(), Body::Text(r#"{"timeout_sec":-1}"#), 400, "invalid_request"),
        post("wrong type", "/v1/capsules".into(), Body::Text(r#"{"vcpus":"two"}"#), 400, "invalid_request"),
        post("malformed JSON", "/v1/capsules".into(), Body::Text("{"), 400, "invalid_request"),
        post("no body", "/v1/capsules".into(), Body::Empty, 400, "invalid_request"),
        post("oversize JSON", "/v1/capsules".into(), Body::Huge, 413, "too_large"),
        post("bad query", "/v1/capsules?wait=x".into(), Body::Text("{}"), 400, "invalid_request"),
        post("pausing a paused one", capsule(paused, "/pause"), Body::Empty, 409, "invalid_state"),
        post("cloning a paused one", capsule(paused, "/fork"), Body::Empty, 409, "invalid_state"),
        post("cloning an unknown one", capsule(UNKNOWN, "/fork"), Body::Empty, 404, "not_found"),
        Row("cloning another team's", Method::POST, on("/fork"), Key::Other, Body::Empty, 404, "not_found"),
        post("no clones", on("/fork"), Body::Text(r#"{"count":0}"#), 400, "invalid_request"),
        post("too many clones", on("/fork"), Body::Text(r#"{"count":21}"#), 400, "invalid_request"),
        post("template of an unknown one", "/v1/snapshots".into(), Body::Text(UNKNOWN_SAVED), 404, "not_found"),
        post("template of no capsule", "/v1/snapshots".into(), Body::Text("{}"), 400, "invalid_request"),
        post("template with a bad name", "/v1/snapshots".into(), Body::Text(BADLY_NAMED), 400, "invalid_request"),
        post("template with the platform's name", "/v1/snapshots".into(), Body::Text(RESERVED), 409, "name_reserved"),
        get("templates of no known type", "/v1/snapshots?type=x".into(), Key::Own, 400, "invalid_request"),
        get("templates without a key", "/v1/snapshots".into(), Key::None, 401, "unauthorized"),
        delete("the platform's template", "/v1/snapshots/minimal".into(), Key::Own, 403, "forbidden"),
        delete("an unknown template", "/v1/snapshots/nope".into(), Key::Own, 404, "not_found"),
        delete("a template without a key", "/v1/snapshots/nope".into(), Key::None, 401, "unauthorized"),
        delete("a template with a bad name", "/v1/snapshots/a%2Fb".into(), Key::Own, 400, "invalid_request"),
        post("resuming a running one", on("/resume"), Body::Empty, 409, "invalid_state"),
        post("pinging a paused one", capsule(paused, "/ping"), Body::Empty, 409, "invalid_state"),
        post("exec in a paused one", capsule(paused, "/exec"), Body::Text("{"), 409, "invalid_state"),
        post("exec in an unknown one", capsule(UNKNOWN, "/exec"), Body::Text("{}"), 404, "not_found"),
        post("exec without cmd", on("/exec"), Body::Text("{}"), 400, "invalid_request"),
        post("exec with an empty cmd", on("/exec"), Body::Text(r#"{"cmd":""}"#), 400, "invalid_request"),
        post("exec with NUL", on("/exec"), Body::Text(r#"{"cmd":"a\u0000"}"#), 400, "invalid_request"),
        post("exec out of time", on("/exec"), Body::Text(r#"{"cmd":"hang","timeout_sec":1}"#), 504, "timeout"),
        post("reading a missing file", on("/files/read"), Body::Text(r#"{"path":"/../../nope"}"#), 404, "not_found"),
        post("reading no path", on("/files/read"), Body::Text("{}"), 400, "invalid_request"),
        post("reading an empty path", on("/files/read"), Body::Text(r#"{"path":""}"#), 400, "invalid_request"),
        post("reading NUL", on("/files/read"), Body::Text(r#"{"path":"a\u0000b"}"#), 400, "invalid_request"),
        post("streaming a missing file", on("/files/stream/read"), Body::Text(r#"{"path":"/x"}"#), 404, "not_found"),
        post("upload that is no form", on("/files/write"), Body::Text("{}"), 400, "invalid_request"),
        post("upload without file", on("/files/write"), Body::Form(&[("path", "/a")]), 400, "invalid_request"),
        post("upload without path", on("/files/write"), Body::Form(&[("file", "x")]), 400, "invalid_request"),
        post(
            "stream with path last",
            on("/files/stream/write"),
            Body::Form(&[("file", "x"), ("path", "/a")]),
            400,
            "invalid_request",
        ),
        post("oversize upload", on("/files/write"), Body::HugeForm, 413, "too_large"),
        Row("bad signal", Method::DELETE, on("/processes/1?signal=HUP"), Key::Own, Body::Empty, 400, "invalid_request"),
        post("events without a token", "/v1/hosts/sandbox-events".into(), Body::Text("{}"), 401, "unauthorized"),
    ]
}

/// About what a capsule used and may reach.
fn more_rows(running: &str) -> Vec<Row> {
    let get = |what, path: String, key, status, code| Row(what, Method::GET, path, key, Body::Empty, status, code);
    let post = |what, path: String, body, status, code| Row(what, Method::POST, path, Key::Own, body, status, code);
    let put =
        |what, path: String, key, body, status, code| Row(what, Method::PUT, path, key, Body::Text(body), status, code);
    let capsule = |id: &str, rest: &str| format!("/v1/capsules/{id}{rest}");
    let on = |rest: &str| capsule(running, rest);
    vec![
        post(
            "network with a name",
            "/v1/capsules".into(),
            Body::Text(r#"{"network":{"allow_out":["example.com"]}}"#),
            400,
            "invalid_request",
        ),
        put("network without a key", on("/network"), Key::None, "{}", 401, "unauthorized"),
        put("network of another team's", on("/network"), Key::Other, "{}", 404, "not_found"),
        put("network of an unknown one", capsule(UNKNOWN, "/network"), Key::Own, "{}", 404, "not_found"),
        put("network without a body", on("/network"), Key::Own, "", 400, "invalid_request"),
        put("network with E2B's words", on("/network"), Key::Own, r#"{"denyOut":[]}"#, 400, "invalid_request"),
        put(
            "network with half a block",
            on("/network"),
            Key::Own,
            r#"{"deny_out":["1.2.3/8"]}"#,
            400,
            "invalid_request",
        ),
        put("network with IPv6", on("/network"), Key::Own, r#"{"allow_out":["::/0"]}"#, 400, "invalid_request"),
        put("network with too much", on("/network"), Key::Own, too_many_blocks(), 400, "invalid_request"),
        get("metrics without a key", on("/metrics"), Key::None, 401, "unauthorized"),
        get("metrics of another team's", on("/metrics"), Key::Other, 404, "not_found"),
        get("metrics of an unknown one", capsule(UNKNOWN, "/metrics"), Key::Own, 404, "not_found"),
        get("metrics of no range", on("/metrics?range=3m"), Key::Own, 400, "invalid_request"),
    ]
}

/// One more than a list takes.
fn too_many_blocks() -> &'static str {
    let blocks = vec!["1.2.3.4"; model::limits::EGRESS_BLOCKS_MAX + 1];
    serde_json::json!({ "deny_out": blocks }).to_string().leak()
}

fn with(request: RequestBuilder, body: &Body) -> RequestBuilder {
    match body {
        Body::Empty => request,
        Body::Text(text) => request.body(*text),
        Body::Huge => request.body(" ".repeat(2 << 20)),
        Body::Form(parts) => {
            request.multipart(parts.iter().fold(Form::new(), |form, (name, text)| form.part(*name, Part::text(*text))))
        }
        Body::HugeForm => {
            let file = Part::bytes(vec![0; 101 << 20]).file_name("x");
            request.multipart(Form::new().text("path", "/a").part("file", file))
        }
    }
}

#[tokio::test]
async fn every_mistake_has_its_answer() {
    let api = Api::start().await;
    let (running, paused) = (api.running().await, api.paused().await);
    for Row(what, method, path, key, body, status, code) in
        rows(&running, &paused).into_iter().chain(more_rows(&running))
    {
        let request = match key {
            Key::Own => api.request(method, &path),
            Key::Other => api.bare(method, &path).header("x-api-key", &api.other_key),
            Key::Wrong => api.bare(method, &path).header("x-api-key", format!("wrn_{}", "0".repeat(32))),
            Key::None => api.bare(method, &path),
        };
        let answer = with(request, &body).send().await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let header = answer.headers().get("x-request-id").map(|id| id.to_str().unwrap().to_owned());
        assert_eq!(answer.status(), status, "{what}");
        assert_eq!(answer.headers()["content-type"], "application/json", "{what}");
        let body: Value = answer.json().await.unwrap();
        let error = &body["error"];
        assert_eq!(error["code"], code, "{what}: {body}");
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{what}: {body}");
        assert!(error["retryable"].is_boolean(), "{what}: {body}");
        assert_eq!(error["request_id"].as_str(), header.as_deref(), "{what}: {body}");
        assert!(header.is_some_and(|id| id.starts_with("req_")), "{what}");
    }
}

/// One more than may be asked for at once.
fn many_ids() -> String {
    let ids = (0..=model::limits::METRICS_SANDBOXES_MAX).map(|n| format!("{n:025}"));
    ids.collect::<Vec<_>>().join(",")
}

#[tokio::test]
async fn e2b_clients_hear_it_in_their_shape() {
    let api = Api::start().await;
    let unknown = UNKNOWN.trim_start_matches("cl-");
    let paused = api.paused().await;
    let paused = paused.trim_start_matches("cl-");
    let rows = [
        (Method::GET, "/v2/sandboxes".to_owned(), "", false, 401),
        (Method::GET, "/v2/sandboxes?state=dead".to_owned(), "", true, 400),
        (Method::GET, format!("/sandboxes/{unknown}"), "", true, 404),
        (Method::GET, "/sandboxes/not-an-id".to_owned(), "", true, 404),
        (Method::DELETE, format!("/sandboxes/{unknown}"), "", true, 404),
        (Method::POST, "/v2/sandboxes".to_owned(), "{}", true, 400),
        (Method::POST, "/v2/sandboxes".to_owned(), "{", true, 400),
        (Method::POST, "/sandboxes".to_owned(), r#"{"templateID":"nope"}"#, true, 404),
        (Method::POST, "/sandboxes".to_owned(), r#"{"templateID":"base","timeout":-1}"#, true, 400),
        (Method::POST, "/sandboxes".to_owned(), r#"{"templateID":"base","network":{"rules":{"a.b":[]}}}"#, true, 400),
        (Method::POST, format!("/sandboxes/{paused}/pause"), "", true, 409),
        (Method::POST, format!("/sandboxes/{unknown}/pause"), "", true, 404),
        (Method::POST, format!("/sandboxes/{paused}/timeout"), "{}", true, 400),
        (Method::POST, format!("/sandboxes/{paused}/connect"), "{}", true, 400),
        (Method::GET, format!("/sandboxes/{paused}/metrics"), "", false, 401),
        (Method::GET, format!("/sandboxes/{unknown}/metrics"), "", true, 404),
        (Method::GET, format!("/sandboxes/{paused}/metrics?start=2&end=1"), "", true, 400),
        (Method::GET, format!("/sandboxes/{paused}/metrics?start=x"), "", true, 400),
        (Method::GET, format!("/sandboxes/metrics?sandbox_ids={paused}"), "", false, 401),
        (Method::GET, "/sandboxes/metrics".to_owned(), "", true, 400),
        (Method::GET, format!("/sandboxes/metrics?sandbox_ids={}", many_ids()), "", true, 400),
        (Method::PUT, format!("/sandboxes/{paused}/network"), "{}", false, 401),
        (Method::PUT, format!("/sandboxes/{unknown}/network"), "{}", true, 404),
        (Method::PUT, format!("/sandboxes/{paused}/network"), r#"{"allowOut":["*.example.com"]}"#, true, 400),
        (Method::PUT, format!("/sandboxes/{paused}/network"), r#"{"rules":{"a.b":[{}]}}"#, true, 400),
        (Method::PUT, format!("/sandboxes/{paused}/network"), r#"{"egressProxy":{"address":"a:1"}}"#, true, 400),
        (Method::PUT, format!("/sandboxes/{paused}/network"), r#"{"dnsServers":["1.1.1.1"]}"#, true, 400),
        (Method::PUT, format!("/sandboxes/{paused}/network"), r#"{"allowPublicTraffic":false}"#, true, 400),
        (Method::PATCH, "/sandboxes".to_owned(), "", true, 405),
    ];
    for (method, path, body, with_key, status) in rows {
        let what = format!("{method} {path} {body}");
        let request = if with_key { api.request(method, &path) } else { api.bare(method, &path) };
        let answer = request.body(body).send().await.unwrap();
        assert_eq!(answer.status(), status, "{what}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["code"], status, "{what}: {body}");
        assert!(body["message"].is_string(), "{what}: {body}");
    }
}
