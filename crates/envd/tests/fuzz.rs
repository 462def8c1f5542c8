//! What comes from outside, by the ten thousand: envelopes, paths, multipart bodies, `/etc/passwd`.
//!
//! `WRENN_FUZZ_SECONDS` lets each go on for that long (`cargo xtask soak`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use bytes::Bytes;
use envd::daemon::{Daemon, Options};
use envd::handover::Supervisor;
use envd::paths::{self, PathError};
use envd::users;
use futures_util::{StreamExt as _, stream};
use http::{Request, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::Value;
use tower::ServiceExt as _;

const CASES: u32 = 10_000;

/// Ten thousand cases, and on from there while there is time.
fn fuzz<T: Debug>(strategy: impl Strategy<Value = T>, mut check: impl FnMut(T) -> Result<(), TestCaseError>) {
    let seconds = std::env::var("WRENN_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    let check = std::cell::RefCell::new(&mut check);
    loop {
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        if let Err(error) = TestRunner::new(config).run(&strategy, |input| (check.borrow_mut())(input)) {
            panic!("{error}");
        }
        if Instant::now() >= end {
            return;
        }
    }
}

/// The daemon's routes, without a socket between.
struct Routes {
    router: Router,
    runtime: tokio::runtime::Runtime,
    directory: tempfile::TempDir,
}

impl Routes {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            program: PathBuf::from("/no/such/envd"),
            run_dir: directory.path().join("run"),
            cgroup_root: None,
            forward_address: None,
            owns_machine: false,
            descriptors: (1024, 4096),
        };
        let router = envd::http::router(Arc::new(Daemon::open(options, Supervisor::none())));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { router, runtime, directory }
    }

    /// The body arrives in these pieces.
    fn post(&self, uri: &str, content_type: &str, pieces: Vec<Bytes>) -> (StatusCode, Bytes) {
        // Between two pieces nothing is there: otherwise a parser gets all of them at once.
        let body = Body::from_stream(stream::iter(pieces).then(async |piece| {
            tokio::task::yield_now().await;
            Ok::<_, std::io::Error>(piece)
        }));
        let request = Request::post(uri)
            .header("content-type", content_type)
            .header("connect-protocol-version", "1")
            .body(body)
            .unwrap();
        self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.unwrap();
            let status = response.status();
            (status, to_bytes(response.into_body(), 1 << 20).await.unwrap_or_default())
        })
    }
}

/// Bytes in pieces, cut at the given places.
fn pieces(bytes: &[u8], cuts: &[prop::sample::Index]) -> Vec<Bytes> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| Bytes::copy_from_slice(&bytes[pair[0]..pair[1]])).collect()
}

/// An envelope: flags, the length it announces, the bytes it has. Seldom do both agree by chance, so often they do by plan.
fn envelope() -> impl Strategy<Value = (u8, u32, Vec<u8>)> {
    let message = prop_oneof![
        vec(any::<u8>(), 0..40),
        Just(br#"{"process":{"pid":4000000000}}"#.to_vec()),
        Just(br#"{"process":{"tag":"none"}}"#.to_vec()),
        Just(Vec::new()),
    ];
    (prop_oneof![4 => Just(0), 1 => any::<u8>()], any::<u32>(), message, 0..4_u8).prop_map(
        |(flags, length, bytes, kind)| {
            let exact = u32::try_from(bytes.len()).unwrap();
            (flags, [exact, exact, length, exact.wrapping_sub(1)][usize::from(kind)], bytes)
        },
    )
}

#[test]
fn envelopes() {
    let routes = Routes::new();
    let methods = ["Connect", "StreamInput"];
    let content_types = ["application/connect+json", "application/connect+proto"];
    let strategy = (vec(envelope(), 0..3), 0..2_usize, 0..2_usize, vec(any::<prop::sample::Index>(), 0..4));
    fuzz(strategy, |(envelopes, method, content_type, cuts)| {
        let mut body = Vec::new();
        for (flags, length, bytes) in &envelopes {
            body.push(*flags);
            body.extend(length.to_be_bytes());
            body.extend(bytes);
        }
        let uri = format!("/process.Process/{}", methods[method]);
        let (status, answer) = routes.post(&uri, content_types[content_type], pieces(&body, &cuts));
        prop_assert!(!status.is_server_error(), "{status} {answer:?}");
        if status != StatusCode::OK {
            return Ok(());
        }
        // The last envelope of every answer says how the call ended, and none of these can have ended without an error,
        // but that a client stream may be empty.
        let last = last_envelope(&answer).ok_or_else(|| TestCaseError::fail(format!("no end: {answer:?}")))?;
        let code = last["error"]["code"].as_str().unwrap_or_default();
        prop_assert!(methods[method] == "StreamInput" || !code.is_empty(), "{last}");
        // A flag for compression nobody announced is an internal error by the protocol's own rules.
        let plain = envelopes.iter().all(|(flags, ..)| *flags == 0);
        prop_assert!(!plain || !["internal", "unknown", "data_loss"].contains(&code), "{last}");
        // More than the daemon takes is refused by what is announced, before it arrives.
        if let Some((0, length, _)) = envelopes.first()
            && *length as usize > envd::limits::MESSAGE_BYTES
        {
            prop_assert_eq!(code, "resource_exhausted");
        }
        Ok(())
    });
}

fn last_envelope(mut answer: &[u8]) -> Option<Value> {
    let mut last = None;
    while let Some((head, rest)) = answer.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (payload, rest) = rest.split_at_checked(length)?;
        if head[0] & 2 != 0 {
            last = serde_json::from_slice(payload).ok();
        }
        answer = rest;
    }
    last
}

#[test]
fn paths() {
    let path = prop_oneof![
        any::<String>(),
        vec(prop::sample::select(vec!["..", ".", "~", "", "a", "b c", "\u{e9}", "\0", "..."]), 0..8)
            .prop_map(|parts| parts.join("/")),
    ];
    let directory = prop::sample::select(vec!["/", "/root", "/home/u"]);
    fuzz((path, directory.clone(), prop::option::of(directory)), |(path, home, workdir)| {
        let resolved = paths::resolve(&path, Path::new(home), workdir.map(Path::new));
        if path.contains('\0') {
            prop_assert_eq!(resolved, Err(PathError::Nul));
            return Ok(());
        }
        if path.starts_with('~') && path != "~" && !path.starts_with("~/") {
            prop_assert_eq!(resolved, Err(PathError::OtherHome(path)));
            return Ok(());
        }
        let resolved = resolved.map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert!(resolved.is_absolute());
        if path.is_empty() {
            prop_assert_eq!(resolved, Path::new(workdir.unwrap_or(home)));
        } else if path.starts_with('/') {
            prop_assert_eq!(resolved, Path::new(&path));
        } else {
            let names = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
            prop_assert!(resolved.components().all(names), "{}", resolved.display());
            if !path.split('/').any(|part| part == "..") {
                prop_assert!(resolved.starts_with(home), "{}", resolved.display());
            }
        }
        Ok(())
    });
}

#[test]
fn multipart_bodies() {
    let routes = Routes::new();
    // Contents that look like what surrounds them.
    let content = vec(
        prop_oneof![
            vec(any::<u8>(), 0..30),
            prop::sample::select(vec!["\r\n", "--x", "\r\n--x", "\r\n--", "--", "\r", "-"])
                .prop_map(|text| text.as_bytes().to_vec()),
        ],
        0..6,
    )
    .prop_map(|pieces| pieces.concat());
    let parts = prop::collection::btree_map("[A-Z]{1,3}", content, 1..4);
    fuzz((parts, vec(any::<prop::sample::Index>(), 0..8)), |(parts, cuts)| {
        let parts: BTreeMap<String, Vec<u8>> = parts;
        // The end of a part must not occur in it (RFC 2046, section 5.1.1).
        prop_assume!(parts.values().all(|content| !content.windows(4).any(|bytes| bytes == b"--xy")));
        let mut body = Vec::new();
        for (name, content) in &parts {
            let path = routes.directory.path().join(name);
            let head = format!(
                "--xy\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\n\r\n",
                path.display()
            );
            body.extend([head.as_bytes(), content, b"\r\n"].concat());
        }
        body.extend(b"--xy--\r\n");
        let (status, answer) = routes.post("/files", "multipart/form-data; boundary=xy", pieces(&body, &cuts));
        prop_assert_eq!(status, StatusCode::OK, "{:?}", answer);
        for (name, content) in parts {
            let written = std::fs::read(routes.directory.path().join(&name)).unwrap();
            prop_assert!(written == content, "{name}: {written:?} instead of {content:?}");
        }
        Ok(())
    });
}

#[test]
fn passwd_files() {
    let name = || prop::sample::select(vec!["u", "v", "root", "user", "#u", "+"]);
    let field = || prop_oneof!["[0-9]{1,12}", "[a-z/]{0,6}", Just(String::new()), any::<String>()];
    let line = (name(), vec(field(), 0..8)).prop_map(|(name, fields)| format!("{name}:{}", fields.join(":")));
    let good = (name(), any::<u32>(), any::<u32>()).prop_map(|(n, u, g)| format!("{n}:x:{u}:{g}:A:/home/{n}:/bin/sh"));
    let file =
        || vec(prop_oneof![line.clone(), good.clone(), any::<String>()], 0..8).prop_map(|lines| lines.join("\n"));
    fuzz((file(), file(), name()), |(passwd, group, name)| {
        // As passwd(5) has it, said another way: seven fields or fewer, the first line that has a name and both ids.
        let expected = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            if name.starts_with('#') || fields[0] != name || fields.len() < 4 {
                return None;
            }
            let home = fields.get(5).filter(|home| home.starts_with('/')).unwrap_or(&"/");
            Some((fields[2].parse::<u32>().ok()?, fields[3].parse::<u32>().ok()?, PathBuf::from(home)))
        });
        let expected = expected.or_else(|| (name == "root").then(|| (0, 0, PathBuf::from("/root"))));
        let found = users::find_in(&passwd, &group, name).ok();
        prop_assert!(found.iter().all(|user| user.groups[0] == user.gid));
        prop_assert_eq!(found.map(|user| (user.uid, user.gid, user.home)), expected);
        Ok(())
    });
}
