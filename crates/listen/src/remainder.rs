//! What a handler left of a request's body.
//!
//! hyper ends an answer's connection when the body of its request has not arrived by then, without having said so: the
//! client takes the connection for reusable, and its next request fails. So what is left is read first if it is little
//! and comes soon, and else the answer says that the connection closes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// Most that is read for nobody.
const BYTES: usize = 256 * 1024;
/// How long it may take.
const PATIENCE: Duration = Duration::from_millis(200);

/// Where a body goes when its reader has had enough.
#[derive(Debug, Clone, Default)]
pub(crate) struct Remainder(Arc<Mutex<Option<Incoming>>>);

/// The body of a request, for its handler.
#[derive(Debug)]
pub(crate) struct RequestBody {
    /// None once it has been read to its end, or failed.
    body: Option<Incoming>,
    remainder: Remainder,
}

impl Remainder {
    /// `body` for a handler; what that leaves comes here.
    pub(crate) fn of(&self, body: Incoming) -> RequestBody {
        RequestBody { body: Some(body), remainder: self.clone() }
    }

    /// Whether the connection can be used again as far as the request's body goes: it has been read, or somebody
    /// still reads it, or it was read here. A client that `asks_first` is not asked for what nobody wants (RFC 9110,
    /// section 10.1.1).
    pub(crate) async fn clear(&self, asks_first: bool) -> bool {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match left {
            Some(_) if asks_first => false,
            Some(body) => tokio::time::timeout(PATIENCE, drain(body)).await.unwrap_or(false),
            None => true,
        }
    }
}

async fn drain(mut body: Incoming) -> bool {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        bytes += frame.data_ref().map_or(0, bytes::Buf::remaining);
        if bytes > BYTES {
            return false;
        }
    }
    true
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.remainder.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}
