//! Commands and processes of a capsule.

use crate::error::Error;
use crate::http::Client;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use model::CapsuleId;
use model::limits::EXEC_TIMEOUT_S_DEFAULT;
use model::rest::{Encoding, ExecRequest, ExecResult, ExecStarted, Process, ProcessList};
use reqwest::Method;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// How a process is named: by number or by tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Process id in the guest.
    Pid(u32),
    /// As given at its start. A tag of digits only cannot be told from a process id.
    Tag(String),
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "{pid}"),
            Self::Tag(tag) => f.write_str(tag),
        }
    }
}

impl FromStr for Selector {
    type Err = Infallible;

    /// As the API reads it: digits are a process id.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.parse().map_or_else(|_| Self::Tag(text.to_owned()), Self::Pid))
    }
}

impl Client {
    /// Runs a command to its end and collects its output.
    pub async fn exec(&self, id: CapsuleId, request: &ExecRequest) -> Result<ExecResult, Error> {
        let request = ExecRequest { background: false, ..request.clone() };
        let asked_s = request.timeout_sec.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
        let limit = Self::limit_for(asked_s.unwrap_or_else(|| EXEC_TIMEOUT_S_DEFAULT.into()));
        let call = self.request(Method::POST, &["capsules", &id.to_string(), "exec"]);
        self.fetch(call.timeout(limit).json(&request)).await
    }

    /// Starts a command and leaves it running.
    pub async fn start(&self, id: CapsuleId, request: &ExecRequest) -> Result<ExecStarted, Error> {
        let request = ExecRequest { background: true, timeout_sec: None, ..request.clone() };
        self.fetch(self.request(Method::POST, &["capsules", &id.to_string(), "exec"]).json(&request)).await
    }

    /// Processes started through the API that still run.
    pub async fn processes(&self, id: CapsuleId) -> Result<Vec<Process>, Error> {
        let list: ProcessList =
            self.fetch(self.request(Method::GET, &["capsules", &id.to_string(), "processes"])).await?;
        Ok(list.processes)
    }

    /// Sends a process SIGKILL, or SIGTERM when `gently`.
    pub async fn kill(&self, id: CapsuleId, process: &Selector, gently: bool) -> Result<(), Error> {
        let signal = if gently { "SIGTERM" } else { "SIGKILL" };
        let (id, process) = (id.to_string(), process.to_string());
        let call = self.request_with(Method::DELETE, &["capsules", &id, "processes", &process], &[("signal", signal)]);
        self.send(call).await.map(drop)
    }
}

/// Both outputs of a command, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Undoes the encoding of the answer; `None` when it is not what it says.
    #[must_use]
    pub fn of(result: &ExecResult) -> Option<Self> {
        let decode = |text: &str| match result.encoding {
            Encoding::Utf8 => Some(text.as_bytes().to_vec()),
            Encoding::Base64 => BASE64.decode(text).ok(),
        };
        Some(Self { stdout: decode(&result.stdout)?, stderr: decode(&result.stderr)? })
    }
}
