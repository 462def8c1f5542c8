//! A daemon on a loopback port, driven over real HTTP with the JSON the SDKs send.
#![allow(dead_code)] // each test file uses its part

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use sys::spawn::{Process, Spawn, Stream};
use tempfile::TempDir;

pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A running daemon; killed when dropped.
pub struct Daemon {
    process: Process,
    pub address: String,
    directory: TempDir,
    client: Client<HttpConnector, Full<Bytes>>,
    /// Sent with every request.
    pub headers: HeaderMap,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A supervisor takes its daemon along.
        let _ = self.process.terminate();
        let _ = self.process.wait();
    }
}

/// An answer read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

impl Daemon {
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// With further arguments.
    pub fn start_with(arguments: &[&str]) -> Result<Self> {
        Self::launched(tempfile::tempdir()?, || Spawn::new(env!("CARGO_BIN_EXE_envd")).args(arguments))
    }

    /// The static daemon of guests, supervised, in a root file system and mount namespace of its own.
    pub fn in_root(root: TempDir) -> Result<Self> {
        let binary = std::env::var_os("WRENN_ENVD").ok_or("WRENN_ENVD is not set: run `cargo xtask test guest`")?;
        std::fs::copy(binary, root.path().join("envd"))?;
        // The run directory lies in the test's directory, which has the same path inside.
        std::fs::create_dir_all(root.path().join(root.path().strip_prefix("/")?))?;
        let script = "cd \"$0\" && mkdir -p proc dev && mount -t proc proc proc && mount --rbind /dev dev \
            && exec chroot . /envd --supervise \"$@\"";
        let path = root.path().to_owned();
        Self::launched(root, || {
            Spawn::new("unshare").args(["--mount", "/bin/sh", "-c", script]).arg(&path).env("LANG", "C")
        })
    }

    /// With a supervisor, from a binary of its own.
    pub fn supervised() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let program = directory.path().join("envd");
        std::fs::copy(env!("CARGO_BIN_EXE_envd"), &program)?;
        Self::launched(directory, || Spawn::new(&program).arg("--supervise"))
    }

    fn launched(directory: TempDir, describe: impl Fn() -> Spawn) -> Result<Self> {
        let spawn = || {
            describe()
                .args(["--address", "127.0.0.1", "--port", "0", "--run-dir"])
                .arg(directory.path().join("run"))
                .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
                .stdout(Stream::Pipe)
                .stderr(Stream::Inherit)
                .spawn()
        };
        // While other tests start processes, a file just written may still be open for writing in one of them.
        let busy = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ExecutableFileBusy;
        let mut process = loop {
            match spawn() {
                Err(error) if busy(&error) => std::thread::sleep(std::time::Duration::from_millis(5)),
                started => break started?,
            }
        };
        let mut line = String::new();
        BufReader::new(process.take_stdout().ok_or("no stdout")?).read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().ok_or("no address")?.to_owned();
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { process, address, directory, client, headers: HeaderMap::new() })
    }

    /// The daemon behind the supervisor: its only child that is one.
    pub fn supervised_pid(&self) -> Result<u32> {
        let supervisor = self.process.pid();
        let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"))?;
        for pid in children.split_whitespace() {
            if std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?.contains("--supervised") {
                return Ok(pid.parse()?);
            }
        }
        Err("no daemon runs".into())
    }

    /// Stops the supervisor by signal, or lets it go on.
    pub fn stop_supervisor(&self, stop: bool) -> Result {
        use rustix::process::{Pid, Signal, kill_process};
        let pid = Pid::from_raw(self.process.pid().cast_signed()).ok_or("no pid")?;
        Ok(kill_process(pid, if stop { Signal::STOP } else { Signal::CONT })?)
    }

    /// What the daemon has of the machine at this moment: open descriptors, children.
    pub fn holdings(&self) -> Result<(usize, usize)> {
        let pid = self.process.pid();
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        let mut children = 0;
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end meanwhile; what it started is another's child then.
            let list = std::fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
            children += list.split_whitespace().count();
        }
        Ok((descriptors, children))
    }

    /// A directory of the test's own.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn file(&self, name: &str) -> String {
        self.path().join(name).to_string_lossy().into_owned()
    }

    /// Requests from now on run as this user.
    pub fn as_user(&mut self, name: &str) -> Result {
        let value = format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:")));
        self.headers.insert("authorization", value.parse()?);
        Ok(())
    }

    async fn send(&self, request: http::request::Builder, body: Bytes) -> Result<http::Response<Incoming>> {
        let mut request = request.body(Full::new(body))?;
        for (name, value) in &self.headers {
            request.headers_mut().entry(name).or_insert(value.clone());
        }
        Ok(self.client.request(request).await?)
    }

    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("http://{}{path}", self.address))
    }

    pub async fn http(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Result<Reply> {
        let (parts, body) = self.send(request, body.into()).await?.into_parts();
        Ok(Reply { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
    }

    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.http(self.request(Method::GET, path), "").await
    }

    pub async fn post(&self, path: &str, body: Value) -> Result<Reply> {
        self.http(self.request(Method::POST, path).header("content-type", "application/json"), body.to_string()).await
    }

    /// A unary call; the error is its Connect code.
    pub async fn rpc(&self, method: &str, message: Value) -> Result<std::result::Result<Value, String>> {
        let request = self
            .request(Method::POST, &format!("/{method}"))
            .header("content-type", "application/json")
            .header("connect-protocol-version", "1");
        let reply = self.http(request, message.to_string()).await?;
        let json = reply.json();
        Ok(if reply.status.is_success() { Ok(json) } else { Err(text(&json["code"])) })
    }

    /// A server stream with these additional headers.
    pub async fn stream(&self, method: &str, message: Value, headers: &[(&str, &str)]) -> Result<Frames> {
        let mut request = self
            .request(Method::POST, &format!("/{method}"))
            .header("content-type", "application/connect+json")
            .header("connect-protocol-version", "1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(request, frame(&message)).await?;
        assert_eq!(response.status(), StatusCode::OK);
        Ok(Frames { body: response.into_body(), buffer: BytesMut::new() })
    }

    /// Starts a process and reads its start event.
    pub async fn launch(&self, request: Value, headers: &[(&str, &str)]) -> Result<(u64, Frames)> {
        let mut frames = self.stream("process.Process/Start", request, headers).await?;
        let first = frames.next().await?.ok_or("no first message")?;
        let pid = first["event"]["start"]["pid"].as_u64().ok_or_else(|| format!("no start event: {first}"))?;
        Ok((pid, frames))
    }

    /// Runs a shell script to its end.
    pub async fn sh(&self, script: &str) -> Result<Finished> {
        let (_, frames) = self.launch(shell(script), &[]).await?;
        frames.finish().await
    }
}

/// The request for a shell script without stdin.
pub fn shell(script: &str) -> Value {
    json!({ "process": { "cmd": "/bin/sh", "args": ["-c", script] }, "stdin": false })
}

pub fn frame(message: &Value) -> Bytes {
    let payload = message.to_string();
    let mut frame = vec![0];
    frame.extend(u32::try_from(payload.len()).unwrap_or_default().to_be_bytes());
    frame.extend(payload.as_bytes());
    frame.into()
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub fn bytes(value: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default()
}

pub fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// The messages of a stream.
pub struct Frames {
    body: Incoming,
    buffer: BytesMut,
}

/// Everything a process said.
#[derive(Debug, Default)]
pub struct Finished {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub pty: Vec<u8>,
    pub end: Value,
    pub keepalives: usize,
    /// Connect code the stream ended with, empty when it ended well.
    pub error: String,
}

impl Frames {
    /// The next message; none at a good end; an error holds the Connect code.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some((flags, payload)) = self.take_frame() {
                let message: Value = serde_json::from_slice(&payload)?;
                return match (flags & 2, &message["error"]["code"]) {
                    (0, _) => Ok(Some(message)),
                    (_, Value::Null) => Ok(None),
                    (_, code) => Err(text(code).into()),
                };
            }
            match self.body.frame().await {
                Some(frame) => self.buffer.extend_from_slice(&frame?.into_data().unwrap_or_default()),
                None => return Err("the stream broke off".into()),
            }
        }
    }

    fn take_frame(&mut self) -> Option<(u8, Bytes)> {
        let mut head = self.buffer.get(..5)?;
        let (flags, length) = (head.get_u8(), head.get_u32() as usize);
        self.buffer.get(..5 + length)?;
        self.buffer.advance(5);
        Some((flags, self.buffer.split_to(length).freeze()))
    }

    /// Reads until the text has appeared in the output of a terminal.
    pub async fn wait_for_pty(&mut self, wanted: &str) -> Result<String> {
        let mut seen = String::new();
        while let Some(message) = self.next().await? {
            seen += &String::from_utf8_lossy(&bytes(&message["event"]["data"]["pty"]));
            if seen.contains(wanted) {
                return Ok(seen);
            }
        }
        Err(format!("{wanted:?} did not come, but {seen:?}").into())
    }

    /// Reads everything.
    pub async fn finish(mut self) -> Result<Finished> {
        let mut finished = Finished::default();
        loop {
            let message = match self.next().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(finished),
                Err(error) => {
                    finished.error = error.to_string();
                    return Ok(finished);
                }
            };
            let event = &message["event"];
            let data = &event["data"];
            finished.stdout.extend(bytes(&data["stdout"]));
            finished.stderr.extend(bytes(&data["stderr"]));
            finished.pty.extend(bytes(&data["pty"]));
            if !event["keepalive"].is_null() {
                finished.keepalives += 1;
            }
            if !event["end"].is_null() {
                finished.end = event["end"].clone();
            }
        }
    }
}

impl Finished {
    pub fn exit_code(&self) -> i64 {
        self.end["exitCode"].as_i64().unwrap_or(0)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

/// Polls until `probe` gives a value: for events the daemon does not announce.
pub async fn eventually<T>(mut probe: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    for _ in 0..1000 {
        if let Some(value) = probe().await? {
            return Ok(value);
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Err("it did not happen within 10 s".into())
}

/// Names and types of watch events.
pub fn kinds(events: &Value) -> VecDeque<(String, String)> {
    let pair = |event: &Value| (text(&event["name"]), text(&event["type"]).replace("EVENT_TYPE_", ""));
    events.as_array().into_iter().flatten().map(pair).collect()
}
