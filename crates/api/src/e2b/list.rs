//! `GET /sandboxes` and `GET /v2/sandboxes`: filters and pages.

use super::shapes::{ListedSandbox, State as SandboxState};
use crate::auth::Caller;
use crate::failure::Failure;
use crate::params::Params;
use crate::state::ApiState;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use fleet::Filter;
use model::{CapsuleStatus, Error, limits};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

const NEXT_TOKEN: HeaderName = HeaderName::from_static("x-next-token");

pub(crate) fn routes() -> Router<ApiState> {
    Router::new().route("/sandboxes", get(v1)).route("/v2/sandboxes", get(v2))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Query {
    metadata: String,
    state: String,
    template: String,
    limit: Option<u32>,
    next_token: String,
    order: String,
    started_after: String,
}

/// Running ones, all at once.
async fn v1(
    State(state): State<ApiState>,
    caller: Caller,
    Params(query): Params<Query>,
) -> Result<Json<Vec<ListedSandbox>>, Failure> {
    let mut filter = Filter {
        states: SandboxState::Running.statuses().to_vec(),
        metadata: metadata(&query.metadata)?,
        ..Filter::default()
    };
    let mut sandboxes = Vec::new();
    loop {
        let page = state.fleet.list(caller.team, filter.clone()).await?;
        sandboxes.extend(page.capsules.iter().filter_map(ListedSandbox::of));
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            return Ok(Json(sandboxes));
        }
    }
}

async fn v2(
    State(state): State<ApiState>,
    caller: Caller,
    Params(query): Params<Query>,
) -> Result<(HeaderMap, Json<Vec<ListedSandbox>>), Failure> {
    let page = state.fleet.list(caller.team, filter(&query)?).await?;
    let mut headers = HeaderMap::new();
    // Absent on the last page, even a full one: clients ask for more as long as it is there.
    if let Some(next) = page.next.and_then(|cursor| HeaderValue::try_from(cursor.to_string()).ok()) {
        headers.insert(NEXT_TOKEN, next);
    }
    Ok((headers, Json(page.capsules.iter().filter_map(ListedSandbox::of).collect())))
}

fn filter(query: &Query) -> Result<Filter, Error> {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let cursor = given(&query.next_token).map(|token| token.parse()).transpose()?;
    Ok(Filter {
        states: states(&query.state)?,
        metadata: metadata(&query.metadata)?,
        template: given(&query.template).map(|name| name.strip_suffix(":default").unwrap_or(&name).to_owned()),
        created_after: given(&query.started_after).map(|text| time(&text)).transpose()?,
        limit: query.limit.map_or(limits::PAGE_MAX, |limit| limit.clamp(1, limits::PAGE_MAX)),
        cursor,
        oldest_first: match query.order.as_str() {
            "" | "desc" => false,
            "asc" => true,
            _ => return Err(Error::invalid("order must be asc or desc")),
        },
    })
}

fn time(text: &str) -> Result<DateTime<Utc>, Error> {
    // A `+` of the offset arrives as a space from clients that do not encode it.
    let time = DateTime::parse_from_rfc3339(&text.replace(' ', "+"));
    time.map(Into::into).map_err(|_| Error::invalid("startedAfter must be a time as in RFC 3339"))
}

/// Comma-separated; both when there is none.
fn states(text: &str) -> Result<Vec<CapsuleStatus>, Error> {
    let mut statuses = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        statuses.extend(match name {
            "running" => SandboxState::Running.statuses(),
            "paused" => SandboxState::Paused.statuses(),
            _ => return Err(Error::invalid("state must be running or paused")),
        });
    }
    if statuses.is_empty() {
        statuses.extend(SandboxState::Running.statuses());
        statuses.extend(SandboxState::Paused.statuses());
    }
    Ok(statuses)
}

/// `k=v&k2=v2` in which each key and value was percent-encoded *before* it was form-encoded. Both SDKs do so.
fn metadata(text: &str) -> Result<BTreeMap<String, String>, Error> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode_twice(key)?, decode_twice(value)?))
        })
        .collect()
}

fn decode_twice(text: &str) -> Result<String, Error> {
    let once = percent_decode_str(&text.replace('+', " ")).decode_utf8().map(Cow::into_owned);
    let twice = once.and_then(|text| percent_decode_str(&text).decode_utf8().map(Cow::into_owned));
    twice.map_err(|_| Error::invalid("metadata must be UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_as_recorded() {
        // `metadata=a%3Db%252520c` on the wire, after the query's own decoding.
        for (text, want) in [
            ("a=b%2520c", vec![("a", "b c")]),
            ("a=b&c=d", vec![("a", "b"), ("c", "d")]),
            ("k%253D=v%2526w", vec![("k=", "v&w")]),
            ("a=%25C3%25A4", vec![("a", "ä")]),
            ("", vec![]),
        ] {
            let want = want.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            assert_eq!(metadata(text), Ok(want), "{text}");
        }
        assert!(metadata("a=%25ff").is_err());
    }

    #[test]
    fn filters() {
        let query = |text: &str| {
            let uri: http::Uri = format!("/?{text}").parse().unwrap_or_default();
            axum::extract::Query::<Query>::try_from_uri(&uri).map(|query| query.0).unwrap_or_default()
        };
        let all = filter(&query("")).unwrap_or_default();
        assert_eq!((all.states.len(), all.limit, all.oldest_first), (4, 100, false));
        let some = filter(&query("state=paused&limit=1000&order=asc&startedAfter=2026-01-01T00:00:00+00:00"));
        let some = some.unwrap_or_default();
        assert_eq!(some.states, SandboxState::Paused.statuses());
        assert_eq!((some.limit, some.oldest_first, some.created_after.is_some()), (100, true, true));
        for bad in ["state=dead", "order=up", "startedAfter=now", "nextToken=x"] {
            assert!(filter(&query(bad)).is_err(), "{bad}");
        }
    }
}
