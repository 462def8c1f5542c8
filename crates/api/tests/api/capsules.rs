//! Wrenn's API as its SDKs use it.

use crate::agent::Fault;
use crate::support::{Api, HOST_TOKEN};
use model::CapsuleStatus;
use model::metrics::Range;
use proto::hostagent::v1 as wire;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Semaphore;

#[tokio::test]
async fn a_capsule_lives_by_every_spelling_of_its_routes() {
    let api = Api::start().await;
    assert_eq!(
        api.bare(Method::GET, "/health/").send().await.unwrap().json::<Value>().await.unwrap()["version"],
        "1.2.3"
    );
    let body = json!({"template": "minimal", "vcpus": 2, "memory_mb": 1024, "timeout_sec": 5, "metadata": {"a": "b"}});
    let made = api.post("/api/v1/sandboxes/", body).await;
    assert_eq!(made.status(), StatusCode::ACCEPTED);
    let made: Value = made.json().await.unwrap();
    assert_eq!((&made["vcpus"], &made["memory_mb"], &made["timeout_sec"]), (&json!(2), &json!(1024), &json!(60)));
    let id = made["id"].as_str().unwrap();
    let bare = id.trim_start_matches("cl-");

    // Held until it runs.
    let ping = api.request(Method::POST, &format!("/v1/capsules/{id}/ping")).send().await.unwrap();
    assert_eq!(ping.status(), StatusCode::NO_CONTENT);
    let seen: Value = api.get(&format!("/v1/sandboxes/{bare}")).await.json().await.unwrap();
    assert_eq!((&seen["id"], &seen["status"], &seen["isolation"]), (&made["id"], &json!("running"), &json!("test")));
    assert_eq!(seen["metadata"]["a"], "b");
    let list: Value = api.get("/v1/capsules").await.json().await.unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1);

    for (verb, status) in [("pause", "paused"), ("resume", "running")] {
        let answer = api.request(Method::POST, &format!("/v1/capsules/{id}/{verb}")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        assert_eq!(answer.json::<Value>().await.unwrap()["status"], status, "held until it is final");
    }
    let gone = api.request(Method::DELETE, &format!("/v1/capsules/{id}?wait=60")).send().await.unwrap();
    assert_eq!(gone.status(), StatusCode::ACCEPTED);
    let seen: Value = api.get(&format!("/v1/capsules/{id}")).await.json().await.unwrap();
    assert_eq!((&seen["status"], &seen["reason"]), (&json!("stopped"), &json!("user")));
    assert_eq!(api.get("/v1/capsules").await.json::<Value>().await.unwrap(), json!([]));
}

#[tokio::test]
async fn answers_are_held_as_long_as_asked() {
    let api = Api::start().await;
    let id = api.running().await;
    let gate = Arc::new(Semaphore::new(0));
    api.agent.fail("pause", [Fault::Held(Arc::clone(&gate))]);
    let answer = api.request(Method::POST, &format!("/v1/capsules/{id}/pause?wait=0")).send().await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap()["status"], "pausing");
    gate.add_permits(1);
    let id = model::CapsuleId::parse_lenient(&id).unwrap();
    let capsule = api.fleet.wait(id, fleet::Until::Settled, model::limits::WAIT_MAX).await.unwrap();
    assert_eq!(capsule.status, CapsuleStatus::Paused);
}

#[tokio::test]
async fn commands_and_files() {
    let api = Api::start().await;
    let id = api.running().await;
    let on = |rest: &str| format!("/v1/capsules/{id}/{rest}");
    let ran: Value = api.post(&on("exec"), json!({"cmd": "emit", "args": ["3"]})).await.json().await.unwrap();
    assert_eq!((&ran["stdout"], &ran["stderr"]), (&json!("ooo"), &json!("eee")));
    assert_eq!((&ran["exit_code"], &ran["encoding"], &ran["sandbox_id"]), (&json!(7), &json!("utf-8"), &json!(id)));

    let started = api.post(&on("exec"), json!({"cmd": "hang", "background": true})).await;
    assert_eq!(started.status(), StatusCode::ACCEPTED);
    let started: Value = started.json().await.unwrap();
    assert_eq!(started["pid"], 42);
    let tag = started["tag"].as_str().unwrap();
    assert!(tag.starts_with("proc-") && tag.len() == 13, "{tag}");
    let killed = api.request(Method::DELETE, &on("processes/42")).send().await.unwrap();
    assert_eq!(killed.status(), StatusCode::NO_CONTENT);
    assert_eq!(api.agent.world().killed, [42]);

    let content: Vec<u8> = (0..3 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    for route in ["files/write", "files/stream/write"] {
        let form = Form::new().text("path", "/tmp/f").part("file", Part::bytes(content.clone()).file_name("upload"));
        let wrote = api.request(Method::POST, &on(route)).multipart(form).send().await.unwrap();
        assert_eq!(wrote.status(), StatusCode::NO_CONTENT);
    }
    for route in ["files/read", "files/stream/read"] {
        let read = api.post(&on(route), json!({"path": "/tmp/f"})).await;
        assert_eq!(read.headers()["content-type"], "application/octet-stream");
        assert!(read.bytes().await.unwrap() == content);
    }
}

#[tokio::test]
async fn what_a_capsule_may_reach() {
    let api = Api::start().await;
    let network = json!({"allow_internet": false, "allow_out": ["10.1.2.3/8"], "deny_out": ["8.8.8.8"]});
    let made: Value = api.post("/v1/capsules?wait=60", json!({"network": network})).await.json().await.unwrap();
    let shown = json!({"allow_internet": false, "allow_out": ["10.0.0.0/8"], "deny_out": ["8.8.8.8/32"]});
    assert_eq!(made["network"], shown);
    let at = format!("/v1/capsules/{}", made["id"].as_str().unwrap());
    let told = || {
        let world = api.agent.world();
        let egress = world.sandboxes.values().next().unwrap().egress.as_option().unwrap().clone();
        (egress.allow_internet, egress.allow, egress.deny)
    };
    assert_eq!(told(), (false, vec!["10.0.0.0/8".to_owned()], vec!["8.8.8.8/32".to_owned()]));
    for (body, want, shown) in [
        (
            json!({"deny_out": ["1.0.0.0/8"]}),
            (true, vec![], vec!["1.0.0.0/8".to_owned()]),
            json!({"allow_internet": true, "deny_out": ["1.0.0.0/8"]}),
        ),
        (json!({"allow_internet": false}), (false, vec![], vec![]), json!({"allow_internet": false})),
        (json!({}), (true, vec![], vec![]), Value::Null),
    ] {
        let answer = api.request(Method::PUT, &format!("{at}/network")).body(body.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.json::<Value>().await.unwrap()["network"], shown, "{body}");
        assert_eq!(told(), want, "{body}");
        assert_eq!(api.get(&at).await.json::<Value>().await.unwrap()["network"], shown, "{body}");
    }
}

#[tokio::test]
async fn what_a_capsule_used() {
    let api = Api::start().await;
    let (running, paused) = (api.running().await, api.paused().await);
    let point = |unix_ms, cpu_pct| wire::MetricPoint {
        unix_ms,
        cpu_pct,
        mem_bytes: 300,
        disk_bytes: 400,
        net_sent_bytes: 5,
        net_received_bytes: 6,
        ..Default::default()
    };
    // Two of one second stay two; what is no number becomes one.
    let guest =
        wire::MetricPoint { guest_mem_used_bytes: Some(7), guest_mem_cache_bytes: Some(8), ..point(1_500, f64::NAN) };
    api.agent.world().metrics = vec![point(1_000, 12.5), guest];
    for id in [&running, &paused] {
        let seen: Value = api.get(&format!("/v1/capsules/{id}/metrics")).await.json().await.unwrap();
        let points = json!([
            {"timestamp_unix": 1, "timestamp_ms": 1_000, "cpu_pct": 12.5, "mem_bytes": 300, "disk_bytes": 400,
             "net_sent_bytes": 5, "net_received_bytes": 6},
            {"timestamp_unix": 1, "timestamp_ms": 1_500, "cpu_pct": 0.0, "mem_bytes": 300, "disk_bytes": 400,
             "net_sent_bytes": 5, "net_received_bytes": 6, "guest_mem_used_bytes": 7, "guest_mem_cache_bytes": 8},
        ]);
        assert_eq!(seen, json!({"sandbox_id": id, "range": "10m", "points": points}));
    }
    for range in Range::ALL {
        let seen: Value = api.get(&format!("/v1/capsules/{running}/metrics?range={range}")).await.json().await.unwrap();
        assert_eq!(seen["range"], range.as_str());
        assert_eq!(u128::from(api.agent.world().window_ms), range.length().as_millis());
    }
    let gone = api.request(Method::DELETE, &format!("/v1/capsules/{running}?wait=60")).send().await.unwrap();
    assert_eq!(gone.status(), StatusCode::ACCEPTED);
    assert_eq!(api.get(&format!("/v1/capsules/{running}/metrics")).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn hosts_report_with_their_own_token_only() {
    let api = Api::start().await;
    let id = api.running().await;
    let event = json!({
        "id": uuid::Uuid::new_v4(), "sandbox_id": id, "event": "sandbox.crashed", "status": "error",
        "reason": "vm_crash", "timestamp_ms": u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap() + 60_000,
    });
    let report = |host: String, token: &str| {
        let body = json!({"host_id": host, "events": [event]}).to_string();
        api.bare(Method::POST, "/v1/hosts/sandbox-events").header("x-host-token", token).body(body).send()
    };
    assert_eq!(report(api.host.to_string(), "wrong").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let other = model::HostId::random().to_string();
    assert_eq!(report(other, HOST_TOKEN).await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(report(api.host.to_string(), HOST_TOKEN).await.unwrap().status(), StatusCode::NO_CONTENT);
    let seen: Value = api.get(&format!("/v1/capsules/{id}")).await.json().await.unwrap();
    assert_eq!((&seen["status"], &seen["reason"]), (&json!("error"), &json!("vm_crash")));
}

#[tokio::test]
async fn a_capsule_is_kept_as_a_template_of_its_team() {
    let api = Api::start().await;
    let id = api.running().await;
    let saved = api.post("/v1/snapshots", json!({"sandbox_id": id, "name": "mine"})).await;
    assert_eq!(saved.status(), StatusCode::CREATED);
    let saved: Value = saved.json().await.unwrap();
    assert_eq!(
        (&saved["name"], &saved["type"], &saved["platform"]),
        (&json!("mine"), &json!("snapshot"), &json!(false))
    );
    let again = api.post("/v1/snapshots", json!({"sandbox_id": id, "name": "mine"})).await;
    assert_eq!(again.json::<Value>().await.unwrap()["error"]["code"], "template_name_taken");
    let again =
        api.post("/v1/snapshots?overwrite=true", json!({"sandbox_id": id, "name": "mine", "memory": false})).await;
    assert_eq!(again.json::<Value>().await.unwrap()["type"], "base");
    let unnamed: Value = api.post("/v1/snapshots", json!({"sandbox_id": id})).await.json().await.unwrap();
    assert!(unnamed["name"].as_str().unwrap().starts_with("template-"));

    let names = async |path: &str, key: &str| -> Vec<String> {
        let list = api.bare(Method::GET, path).header("x-api-key", key).send().await.unwrap();
        let list: Vec<Value> = list.json().await.unwrap();
        list.iter().map(|template| template["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/v1/snapshots", &api.key).await, [unnamed["name"].as_str().unwrap(), "mine", "minimal"]);
    assert_eq!(names("/v1/snapshots?type=snapshot", &api.key).await.len(), 1);
    assert_eq!(names("/v1/snapshots", &api.other_key).await, ["minimal"], "another team's");
    let others =
        api.bare(Method::DELETE, "/v1/snapshots/mine").header("x-api-key", &api.other_key).send().await.unwrap();
    assert_eq!(others.status(), StatusCode::NOT_FOUND);

    let made: Value = api.post("/v1/capsules", json!({"template": "mine"})).await.json().await.unwrap();
    assert_eq!(made["template"], "mine");
    let gone = api.request(Method::DELETE, "/v1/snapshots/mine").send().await.unwrap();
    assert_eq!(gone.status(), StatusCode::NO_CONTENT);
    assert_eq!(api.post("/v1/capsules", json!({"template": "mine"})).await.status(), StatusCode::NOT_FOUND);
}
