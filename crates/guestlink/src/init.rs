//! The daemon's control routes: health, memory, configuration after a start, quiescence before a snapshot.

use crate::{Envd, HEAD_LIMIT, PREPARE_LIMIT, TOKEN_HEADER};
use bytes::Bytes;
use connectrpc::client::full_body;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Most bytes of an answer to a control call.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Body of `POST /init`: everything the guest is told after a start.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Init {
    /// Secret of the daemon's API from now on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub access_token: String,
    /// User of calls that name none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub default_user: String,
    /// Directory of calls that name none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub default_workdir: String,
    /// Environment of every process.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// The capsule's id, for the guest's programs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox_id: String,
    /// The template's id, for the guest's programs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub template_id: String,
    /// Wall clock, RFC 3339 with nanoseconds; sets the guest's.
    pub timestamp: String,
    /// Fresh random bytes, base64, for the guest kernel's pool.
    pub entropy: String,
    /// New host name; empty = keep.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// The root disk has become this long: its file system grows with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// This is a new capsule made from another's memory: it needs an identity of its own.
    pub clone: bool,
}

/// Why a control call failed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// No answer.
    #[error("the guest does not answer: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("the guest did not answer within {0:?}")]
    Timeout(Duration),
    /// An answer that is not the expected one.
    #[error("the guest answered {0}")]
    Refused(StatusCode),
    /// An answer that cannot be read.
    #[error("the guest's answer is not valid")]
    Invalid,
}

#[derive(Serialize)]
struct Release<'a> {
    timestamp: &'a str,
}

#[derive(Deserialize)]
struct Daemon {
    key: String,
}

/// What a guest says it uses of its memory, in bytes. It may say anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Memory {
    /// In use, page cache apart.
    #[serde(rename = "mem_used")]
    pub used: u64,
    /// Page cache.
    #[serde(rename = "mem_cache")]
    pub cache: u64,
}

#[derive(Deserialize)]
struct Health {
    version: String,
}

impl Envd {
    /// The daemon's version, once it answers.
    pub async fn health(&self, limit: Duration) -> Result<String, InitError> {
        let (status, body) = self.control(Method::GET, "/health", Bytes::new(), limit).await?;
        if status != StatusCode::OK {
            return Err(InitError::Refused(status));
        }
        let health: Health = serde_json::from_slice(&body).map_err(|_| InitError::Invalid)?;
        Ok(health.version.chars().filter(|c| c.is_ascii_alphanumeric() || ".-+".contains(*c)).take(32).collect())
    }

    /// What the guest uses of its memory.
    pub async fn memory(&self, limit: Duration) -> Result<Memory, InitError> {
        let (status, body) = self.control(Method::GET, "/metrics", Bytes::new(), limit).await?;
        if status != StatusCode::OK {
            return Err(InitError::Refused(status));
        }
        serde_json::from_slice(&body).map_err(|_| InitError::Invalid)
    }

    /// Configures the guest after a start.
    pub async fn init(&self, init: &Init, limit: Duration) -> Result<(), InitError> {
        let body = serde_json::to_vec(init).map_err(|_| InitError::Invalid)?;
        self.expect_no_content("/init", body.into(), limit).await
    }

    /// Quiesces the guest before its VM is stopped.
    pub async fn prepare(&self) -> Result<(), InitError> {
        self.expect_no_content("/snapshot/prepare", Bytes::new(), PREPARE_LIMIT).await
    }

    /// Has the guest stand still for a snapshot that its VM outlives.
    pub async fn hold(&self) -> Result<(), InitError> {
        self.expect_no_content("/snapshot/hold", Bytes::new(), PREPARE_LIMIT).await
    }

    /// Ends what [`Self::hold`] began, in the VM that went on, and tells it the time (RFC 3339).
    pub async fn release(&self, timestamp: &str) -> Result<(), InitError> {
        let body = serde_json::to_vec(&Release { timestamp }).map_err(|_| InitError::Invalid)?;
        self.expect_no_content("/snapshot/release", body.into(), HEAD_LIMIT).await
    }

    /// Puts another daemon in this one's place; it answers a moment later. Clients connect again.
    pub async fn upgrade(&self, binary: Bytes) -> Result<(), InitError> {
        self.expect_no_content("/upgrade", binary, HEAD_LIMIT).await
    }

    /// Which daemon it is: a digest of its program. Whatever a guest says here is compared, and nothing else.
    pub async fn daemon_key(&self) -> Result<String, InitError> {
        let (status, body) = self.control(Method::GET, "/upgrade", Bytes::new(), HEAD_LIMIT).await?;
        if status != StatusCode::OK {
            return Err(InitError::Refused(status));
        }
        let daemon: Daemon = serde_json::from_slice(&body).map_err(|_| InitError::Invalid)?;
        Ok(daemon.key)
    }

    async fn expect_no_content(&self, path: &str, body: Bytes, limit: Duration) -> Result<(), InitError> {
        match self.control(Method::POST, path, body, limit).await? {
            (StatusCode::NO_CONTENT, _) => Ok(()),
            (status, _) => Err(InitError::Refused(status)),
        }
    }

    async fn control(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), InitError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://guest{path}"))
            .header(header::CONTENT_TYPE, "application/json");
        if !self.token.is_empty() {
            request = request.header(TOKEN_HEADER, &self.token);
        }
        let request = request.body(full_body(body)).map_err(|_| InitError::Invalid)?;
        let exchange = async {
            let answer = self.timed.request(request).await.map_err(|e| InitError::Unreachable(e.to_string()))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((status, body.map_err(|_| InitError::Invalid)?.to_bytes()))
        };
        let limit = limit.min(HEAD_LIMIT);
        tokio::time::timeout(limit, exchange).await.map_err(|_| InitError::Timeout(limit))?
    }
}
