//! One call: addressing, authentication, time limit, and what an answer means.

use crate::credentials::Credentials;
use crate::error::Error;
use crate::limits;
use bytes::BytesMut;
use model::error::ErrorBody;
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::de::DeserializeOwned;
use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A client of one API with one key. Cheap to clone; clones share a connection pool.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    credentials: Arc<Credentials>,
}

impl Client {
    /// A client for these credentials. Connects only when it is used.
    pub fn new(credentials: Credentials) -> Result<Self, Error> {
        let bad = |reason: String| Error::BadAddress { base_url: credentials.base_url.clone(), reason };
        let base = Url::parse(credentials.base_url.trim_end_matches('/')).map_err(|error| bad(error.to_string()))?;
        let mut builder = reqwest::Client::builder().connect_timeout(limits::CONNECT).user_agent("wrenn");
        match base.scheme() {
            // Reading the machine's certificates costs time, and fails where there are none.
            "http" => builder = builder.tls_certs_only([]),
            "https" => {}
            other => return Err(bad(format!("`{other}` is neither http nor https"))),
        }
        let http = builder.build().map_err(|error| bad(root_cause(&error)))?;
        Ok(Self { http, base, credentials: Arc::new(credentials) })
    }

    /// Where it calls.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.credentials.base_url
    }

    /// A request for `/v1/{segments}`; each segment is percent-encoded. Lives at most [`limits::CALL`] unless the
    /// caller sets another limit.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        self.request_with(method, segments, &[])
    }

    /// As [`Client::request`], with query parameters.
    pub(crate) fn request_with(&self, method: Method, segments: &[&str], query: &[(&str, &str)]) -> RequestBuilder {
        let mut url = self.base.clone();
        // Only a URL that cannot be a base (`mailto:`) has no path; `new` refused those.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("v1").extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.http.request(method, url).header("x-api-key", &self.credentials.api_key).timeout(limits::CALL)
    }

    /// Sends; an error answer becomes [`Error::Api`].
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|error| self.transport_error(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// Sends and reads a JSON answer.
    pub(crate) async fn fetch<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let response = self.send(request).await?;
        let status = response.status().as_u16();
        let body = self.body(response, limits::ANSWER_BYTES_MAX).await?;
        serde_json::from_slice(&body).map_err(|error| self.not_this_api(status, error.to_string()))
    }

    async fn refusal(&self, response: Response) -> Error {
        let status = response.status().as_u16();
        let body = match self.body(response, limits::ERROR_BODY_BYTES_MAX).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => {
                Error::Api { error: model::Error::new(error.code, error.message), request_id: error.request_id }
            }
            Err(_) => self.not_this_api(status, "its body carries no `error`".to_owned()),
        }
    }

    async fn body(&self, mut response: Response, bytes_max: usize) -> Result<BytesMut, Error> {
        let status = response.status().as_u16();
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport_error(&error))? {
            if body.len() + chunk.len() > bytes_max {
                return Err(self.not_this_api(status, format!("its body is larger than {bytes_max} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn not_this_api(&self, status: u16, reason: String) -> Error {
        Error::NotThisApi { base_url: self.base_url().to_owned(), status, reason }
    }

    pub(crate) fn transport_error(&self, error: &reqwest::Error) -> Error {
        let base_url = self.base_url().to_owned();
        if error.is_connect() {
            Error::Unreachable { base_url, reason: root_cause(error) }
        } else if error.is_timeout() {
            Error::TimedOut { base_url }
        } else if let Some(kind) = upload_fault(error) {
            Error::Source(kind)
        } else {
            Error::Broken { base_url, reason: root_cause(error) }
        }
    }

    /// The time limit of a call that itself may run for `seconds`.
    pub(crate) fn limit_for(seconds: u64) -> Duration {
        Duration::from_secs(seconds).saturating_add(limits::EXEC_MARGIN)
    }
}

/// Marks an I/O error of the caller's own source, so that it is not taken for one of the network.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct SourceFault {
    pub kind: io::ErrorKind,
    pub message: String,
}

fn upload_fault(error: &reqwest::Error) -> Option<io::Error> {
    causes(error)
        .find_map(|cause| cause.downcast_ref::<SourceFault>())
        .map(|fault| io::Error::new(fault.kind, fault.message.clone()))
}

/// The innermost cause: reqwest's own texts repeat the URL and say little else.
fn root_cause(error: &reqwest::Error) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

fn causes<'a>(error: &'a reqwest::Error) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}
