//! Request bodies: JSON whatever the content type says, and what is left of a body nobody read.

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use model::{Code, Error, limits};
use serde::de::DeserializeOwned;
use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Most bytes, and most time, spent on reading what a handler left.
const DRAIN_BYTES_MAX: usize = 128 << 20;
const DRAIN: Duration = Duration::from_secs(30);

/// One JSON value. Content type and length are not asked for; what follows the value is ignored.
pub(crate) async fn json<T: DeserializeOwned>(body: Body) -> Result<T, Error> {
    let bytes = whole(body).await?;
    parse(&bytes)
}

/// As [`json`], where no body at all means the default.
pub(crate) async fn optional_json<T: DeserializeOwned + Default>(body: Body) -> Result<T, Error> {
    let bytes = whole(body).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { parse(&bytes) }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    T::deserialize(&mut reader).map_err(|error| Error::invalid(format!("the body is not valid: {error}")))
}

async fn whole(body: Body) -> Result<Bytes, Error> {
    let limited = Limited::new(body, limits::JSON_BODY_BYTES_MAX);
    Ok(limited.collect().await.map_err(|error| unreadable(&*error))?.to_bytes())
}

/// Why a body could not be read: over its limit, or broken off.
pub(crate) fn unreadable(error: &(dyn StdError + 'static)) -> Error {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return Error::new(Code::TooLarge, "the body is too large");
        }
        cause = error.source();
    }
    Error::invalid("the body could not be read")
}

/// The body; what is unread when it is dropped is read and thrown away.
pub(crate) fn draining(body: Body) -> Draining {
    Draining(body)
}

pub(crate) struct Draining(Body);

impl http_body::Body for Draining {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if http_body::Body::is_end_stream(&self.0) {
            return;
        }
        let rest = Limited::new(std::mem::take(&mut self.0), DRAIN_BYTES_MAX);
        runtime.spawn(tokio::time::timeout(DRAIN, async move {
            let mut rest = std::pin::pin!(rest);
            while let Some(Ok(_)) = rest.frame().await {}
        }));
    }
}
