//! Bad input over the wire, each row with its status and code.

use crate::Verdict;
use crate::platform::Platform;
use model::CapsuleId;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

struct Row {
    name: &'static str,
    request: RequestBuilder,
    status: u16,
    code: &'static str,
}

/// Each is refused with a code, a message and a request id, and does no harm.
pub async fn is_refused(platform: &mut Platform) -> Verdict {
    let id = platform.capsule().await?.id;
    let paused = platform.capsule().await?.id;
    platform.pause(paused).await?;
    let http = reqwest::Client::new();
    let call = |method: Method, path: &str| {
        http.request(method, format!("{}{path}", platform.base_url)).header("X-API-Key", &platform.api_key)
    };
    let post = |path: &str| call(Method::POST, path);
    let of = |id: CapsuleId, rest: &str| format!("/v1/capsules/{id}{rest}");
    let unknown = CapsuleId::random();
    let row = |name, request, status, code| Row { name, request, status, code };
    let rows = [
        row("unknown id", call(Method::GET, &of(unknown, "")), 404, "not_found"),
        row("not an id", call(Method::GET, "/v1/capsules/cl-zz"), 400, "invalid_request"),
        row(
            "path traversal in an id",
            call(Method::GET, "/v1/capsules/..%2F..%2Fetc%2Fpasswd"),
            400,
            "invalid_request",
        ),
        row("unknown route", call(Method::GET, "/v1/nothing"), 404, "not_found"),
        row("wrong method", call(Method::PUT, "/v1/capsules"), 405, "method_not_allowed"),
        row("no key", http.get(format!("{}/v1/capsules", platform.base_url)), 401, "unauthorized"),
        row(
            "wrong key",
            http.get(format!("{}/v1/capsules", platform.base_url))
                .header("X-API-Key", "wrn_00000000000000000000000000000000"),
            401,
            "unauthorized",
        ),
        row("malformed JSON", post("/v1/capsules").body("{"), 400, "invalid_request"),
        row("empty body", post("/v1/capsules"), 400, "invalid_request"),
        row("unknown template", post("/v1/capsules").body(r#"{"template":"nothing-like-it"}"#), 404, "not_found"),
        row("negative memory", post("/v1/capsules").body(r#"{"memory_mb":-1}"#), 400, "invalid_request"),
        row("missing field", post(&of(id, "/exec")).body("{}"), 400, "invalid_request"),
        row(
            "oversize body",
            post(&of(id, "/exec")).body(format!(r#"{{"cmd":"{}"}}"#, "a".repeat(2 << 20))),
            413,
            "too_large",
        ),
        row("exec while paused", post(&of(paused, "/exec")).body(r#"{"cmd":"true"}"#), 409, "invalid_state"),
        row("pause while paused", post(&of(paused, "/pause")), 409, "invalid_state"),
        row("resume while running", post(&of(id, "/resume")), 409, "invalid_state"),
        row("missing file", post(&of(id, "/files/read")).body(r#"{"path":"/no/such/file"}"#), 404, "not_found"),
        row("directory as file", post(&of(id, "/files/read")).body(r#"{"path":"/etc"}"#), 400, "invalid_request"),
        row("device as file", post(&of(id, "/files/read")).body(r#"{"path":"/dev/zero"}"#), 400, "invalid_request"),
        row(
            "home of another user",
            post(&of(id, "/files/read")).body(r#"{"path":"~nobody/x"}"#),
            400,
            "invalid_request",
        ),
        row("missing directory", post(&of(id, "/files/list")).body(r#"{"path":"/no/such"}"#), 404, "not_found"),
        row("unknown process", call(Method::DELETE, &of(id, "/processes/999999")), 404, "not_found"),
    ];
    let mut wrong = Vec::new();
    for row in rows {
        let answer = row.request.send().await?;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap_or_default();
        let error = body.get("error").cloned().unwrap_or_default();
        let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if (status, text("code").as_str()) != (row.status, row.code)
            || text("message").is_empty()
            || text("request_id").is_empty()
        {
            wrong.push(format!("{}: {status} {body}, expected {} {}", row.name, row.status, row.code));
        }
    }
    for id in [id, paused] {
        platform.destroy(id).await?;
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ").into()) }
}
