//! HTTP on one connection, under its limits and the registry's orders.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, HeaderValue};
use http::{Request, Response, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tower::ServiceExt as _;

use crate::Limits;
use crate::accept::Accepted;
use crate::meter::{Answering, Expired, Metered};
use crate::registry::Entry;
use crate::remainder::Remainder;

/// Serves until the client leaves, a limit runs out, or the registry says so.
pub(crate) async fn serve(accepted: Accepted, entry: Arc<Entry>, router: Router, limits: Limits) {
    let Accepted { stream, extensions } = accepted;
    let io = TokioIo::new(Metered::new(stream, Arc::clone(&entry.meter)));
    let service = {
        let entry = Arc::clone(&entry);
        hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().extend(extensions.clone());
            answer(Arc::clone(&entry), router.clone(), request)
        })
    };
    let builder = builder(limits);
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));
    let mut finishing = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error, "connection ended");
                }
                return;
            }
            // Dropping the connection closes the socket, by reset (see `Socket`).
            () = entry.reset.cancelled() => return,
            () = entry.finish.cancelled(), if !finishing => {
                finishing = true;
                connection.as_mut().graceful_shutdown();
            }
            expired = entry.meter.expiry(&limits), if !finishing => match expired {
                Expired::Head => return,
                Expired::Idle => {
                    finishing = true;
                    connection.as_mut().graceful_shutdown();
                }
            },
        }
    }
}

fn builder(limits: Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    if !limits.http2 {
        builder = builder.http1_only();
    }
    // See the crate's documentation for why hyper does not time the head.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None);
    builder.http2().timer(TokioTimer::new());
    builder
}

async fn answer(entry: Arc<Entry>, router: Router, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    let answering = entry.meter.request();
    let http1 = request.version() <= Version::HTTP_11;
    let asks_first = request.headers().contains_key(EXPECT);
    let remainder = Remainder::default();
    let mut response = router.oneshot(request.map(|body| remainder.of(body))).await?;
    if http1 && (!entry.keep_alive() || !remainder.clear(asks_first).await) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Answer { body, _answering: answering }))
}

/// An answer's body; the connection counts as busy until it has been sent.
struct Answer {
    body: Body,
    _answering: Answering,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
