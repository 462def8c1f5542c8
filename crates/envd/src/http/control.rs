//! Routes for the host: is it ready, configure it, make it stand still.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use chrono::{DateTime, FixedOffset};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::auth;
use super::refusal::Refusal;
use crate::daemon::{Daemon, blocking};
use crate::quiesce::Sign;
use crate::settings::{Settings, Token};
use crate::{limits, machine, metadata};

/// Body of `POST /init`. Everything is optional; unknown keys are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Init {
    /// The token from now on; the empty string removes it, absence leaves it.
    access_token: Option<String>,
    default_user: Option<String>,
    default_workdir: Option<PathBuf>,
    env_vars: BTreeMap<String, String>,
    /// The host's time. Also orders requests: an older one than the last applied changes nothing.
    timestamp: Option<DateTime<FixedOffset>>,
    /// Name of the machine.
    hostname: Option<String>,
    /// This memory goes on under a new identity: the environment is replaced, not merged, and the machine id is new.
    clone: bool,
    /// Fresh random bytes, base64.
    entropy: Option<String>,
    /// The root disk has become this long.
    disk_bytes: Option<u64>,
    /// Shown to processes as `WRENN_SANDBOX_ID`.
    sandbox_id: Option<String>,
    /// Shown to processes as `WRENN_TEMPLATE_ID`.
    template_id: Option<String>,
}

/// `GET /health`: the first one after a restore sets the daemon going again.
pub(super) async fn health(State(daemon): State<Arc<Daemon>>) -> Json<Value> {
    daemon.recover(Sign::Health);
    Json(json!({ "version": super::VERSION }))
}

/// `GET /envs`: the default environment.
pub(super) async fn envs(State(daemon): State<Arc<Daemon>>) -> Json<BTreeMap<String, String>> {
    Json(daemon.settings.read(|settings| settings.env.clone()))
}

/// `POST /snapshot/prepare`: 204 once nothing in the guest runs by itself.
pub(super) async fn prepare(State(daemon): State<Arc<Daemon>>) -> StatusCode {
    daemon.inquiry.end();
    // Processes come to rest while the forwarding of their ports ends.
    daemon.quiesce.prepare();
    daemon.ports.stop().await;
    daemon.quiesce.stand_still(limits::FREEZING).await;
    StatusCode::NO_CONTENT
}

/// `POST /snapshot/hold`: 204 once user processes stand still; `POST /snapshot/release` ends it. For a machine that
/// goes on after its snapshot.
pub(super) async fn hold(State(daemon): State<Arc<Daemon>>) -> Result<StatusCode, Refusal> {
    daemon.quiesce.hold();
    if daemon.quiesce.stand_still(limits::HOLDING).await {
        return Ok(StatusCode::NO_CONTENT);
    }
    daemon.quiesce.release();
    let why = "a process does not stand still: it waits for a disk or a device";
    Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why))
}

/// Body of `POST /snapshot/release`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Release {
    /// The host's time: the machine's own stood still.
    timestamp: Option<DateTime<FixedOffset>>,
}

/// `POST /snapshot/release`: user processes go on, connections are what they were.
pub(super) async fn release(State(daemon): State<Arc<Daemon>>, body: Bytes) -> Result<StatusCode, Refusal> {
    let Release { timestamp } = parse(&body)?;
    if let Some(timestamp) = timestamp.filter(|_| daemon.options.owns_machine) {
        report("clock", machine::set_clock(timestamp.into()));
    }
    daemon.quiesce.release();
    Ok(StatusCode::NO_CONTENT)
}

/// A body of JSON; an empty one says nothing.
fn parse<T: Default + DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| Refusal::bad_request(error.to_string()))
}

/// `POST /init`: configures the daemon, and ends the standstill after a restore.
pub(super) async fn init(
    State(daemon): State<Arc<Daemon>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let init: Init = parse(&body)?;
    let _alone = daemon.init.lock().await;
    authorise(&daemon, &headers, &init).await?;
    if init.clone && daemon.quiesce.ran_on() {
        let why = "processes ran before this clone was told who it is";
        return Err(Refusal::new(StatusCode::CONFLICT, why));
    }
    daemon.recover(Sign::Init);
    let worker = Arc::clone(&daemon);
    blocking(move || {
        if let Some(bytes) = init.disk_bytes.filter(|_| worker.options.owns_machine) {
            machine::grow_root(bytes).map_err(|error| {
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the root file system does not grow: {error}"))
            })?;
        }
        apply(&worker, init);
        // Last: nothing of the user's runs before the clock is right and random numbers are fresh.
        worker.quiesce.thaw();
        Ok::<_, Refusal>(())
    })
    .await?;
    if daemon.options.owns_machine {
        daemon.inquiry.begin(&daemon);
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Once a token is set, whoever changes anything must know it: in the header, or as the token to be. A token to be
/// that the host's metadata vouches for will do as well.
async fn authorise(daemon: &Daemon, headers: &HeaderMap, init: &Init) -> Result<(), Refusal> {
    let Some(current) = daemon.settings.read(|settings| settings.token.clone()) else { return Ok(()) };
    if auth::carries(headers, &current) {
        return Ok(());
    }
    let Some(named) = &init.access_token else {
        return Err(Refusal::unauthorized("access token reset is not authorized"));
    };
    if current.matches(named.as_bytes()) {
        return Ok(());
    }
    if daemon.options.owns_machine && metadata::ask().await.is_ok_and(|metadata| metadata.vouches_for(named)) {
        return Ok(());
    }
    Err(Refusal::unauthorized("access token does not match"))
}

fn apply(daemon: &Daemon, init: Init) {
    let applied_ns = init.timestamp.and_then(|timestamp| timestamp.timestamp_nanos_opt());
    let newest_ns = daemon.settings.read(|settings| settings.applied_ns);
    // What a clone was told before was meant for another machine, perhaps by another clock.
    if !init.clone && applied_ns.is_some_and(|new| newest_ns.is_some_and(|newest| new <= newest)) {
        tracing::info!("an /init older than the last one changes nothing");
        return;
    }
    if daemon.options.owns_machine {
        tell_machine(&init);
    }
    let stored = daemon.settings.update(|settings| {
        settings.applied_ns = applied_ns.or(settings.applied_ns);
        if init.clone {
            settings.env.clear();
        }
        let (sandbox, template) = (init.sandbox_id.as_deref(), init.template_id.as_deref());
        daemon.publish(settings, [("SANDBOX", Some("true")), ("SANDBOX_ID", sandbox), ("TEMPLATE_ID", template)]);
        configure(init, settings);
    });
    report("settings", stored);
}

/// Clock, randomness, names. Each is tried; none is worth failing the whole for.
fn tell_machine(init: &Init) {
    if let Some(timestamp) = init.timestamp {
        report("clock", machine::set_clock(timestamp.into()));
    }
    if let Some(entropy) = init.entropy.as_deref().and_then(|text| BASE64_STANDARD.decode(text).ok()) {
        report("entropy", sys::entropy::reseed(&entropy));
    }
    if let Some(hostname) = &init.hostname {
        report("hostname", machine::set_hostname(hostname));
    }
    if init.clone {
        report("machine id", machine::renew_machine_id());
    }
}

fn report(what: &str, result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "{what}");
    }
}

fn configure(init: Init, settings: &mut Settings) {
    if let Some(token) = init.access_token {
        settings.token = Token::new(token);
    }
    if let Some(user) = init.default_user.filter(|user| !user.is_empty()) {
        settings.user = user;
    }
    if let Some(workdir) = init.default_workdir.filter(|workdir| !workdir.as_os_str().is_empty()) {
        settings.workdir = Some(workdir);
    }
    settings.env.extend(init.env_vars);
}
