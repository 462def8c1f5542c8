//! Whole files in and out of a guest, as streams.

use crate::{Envd, HEAD_LIMIT, TOKEN_HEADER};
use bytes::Bytes;
use connectrpc::ConnectError;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::Deserialize;

/// Most bytes of an error answer.
const ERROR_BYTES_MAX: usize = 16 << 10;
/// Longest error text passed on.
const ERROR_TEXT_MAX: usize = 512;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The guest refused: its status and its text.
    #[error("{message}")]
    Refused {
        /// HTTP status of the guest's answer.
        status: StatusCode,
        /// What it said, printable and bounded.
        message: String,
    },
    /// The connection broke.
    #[error("the guest does not answer: {0}")]
    Unreachable(String),
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

impl Envd {
    /// The file's content from its beginning. Dropping the stream ends the transfer.
    pub async fn read_file(
        &self,
        path: &str,
        user: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, FileError>> + Send + use<>, FileError> {
        let request = self.file_request(Method::GET, path, user).body(connectrpc::client::full_body(Bytes::new()));
        let answer = self.exchange(request, Some(HEAD_LIMIT)).await?;
        let frames = answer.into_body().into_data_stream();
        Ok(frames.map_err(|e| FileError::Unreachable(e.to_string())))
    }

    /// Writes the file, its missing directories included. An error in `content` leaves a partial file.
    pub async fn write_file<S>(&self, path: &str, user: &str, content: S) -> Result<(), FileError>
    where
        S: Stream<Item = Result<Bytes, ConnectError>> + Send + Sync + 'static,
    {
        let body = BodyExt::boxed(StreamBody::new(content.map(|chunk| chunk.map(Frame::data))));
        let request = self
            .file_request(Method::POST, path, user)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(body);
        self.exchange(request, None).await.map(drop)
    }

    fn file_request(&self, method: Method, path: &str, user: &str) -> http::request::Builder {
        let mut uri = format!("http://guest/files?path={}", escape(path));
        if !user.is_empty() {
            uri.push_str("&username=");
            uri.push_str(&escape(user));
        }
        let request = Request::builder().method(method).uri(uri);
        if self.token.is_empty() { request } else { request.header(TOKEN_HEADER, &self.token) }
    }

    async fn exchange(
        &self,
        request: http::Result<Request<connectrpc::client::ClientBody>>,
        limit: Option<std::time::Duration>,
    ) -> Result<Response<Incoming>, FileError> {
        let unreachable = |text: String| FileError::Unreachable(text);
        let request = request.map_err(|e| unreachable(e.to_string()))?;
        let answering = self.streaming.request(request);
        let answer = match limit {
            Some(limit) => {
                tokio::time::timeout(limit, answering).await.map_err(|_| unreachable("time limit".to_owned()))?
            }
            None => answering.await,
        };
        let answer = answer.map_err(|e| unreachable(e.to_string()))?;
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
    }
}

async fn refusal(answer: Response<Incoming>) -> FileError {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ERROR_BYTES_MAX).collect().await;
    let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let text = match serde_json::from_slice::<Refusal>(&bytes) {
        Ok(refusal) => refusal.message,
        Err(_) => String::from_utf8_lossy(&bytes).into_owned(),
    };
    let message = text.chars().filter(|c| !c.is_control()).take(ERROR_TEXT_MAX).collect();
    FileError::Refused { status, message }
}

/// Percent-encodes everything but unreserved characters (RFC 3986 §2.3) and slashes.
fn escape(path: &str) -> String {
    use std::fmt::Write as _;
    path.bytes().fold(String::with_capacity(path.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_a_query() {
        assert_eq!(escape("/a b/ä?&=%"), "/a%20b/%C3%A4%3F%26%3D%25");
    }
}
