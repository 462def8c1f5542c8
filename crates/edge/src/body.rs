//! Answers that end when their capsule does.

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use std::any::Any;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// What a request holds until its last byte.
pub(crate) struct Hold {
    /// Fires when the capsule is reset.
    pub(crate) reset: CancellationToken,
    /// Fires when this life of it ends.
    pub(crate) gone: CancellationToken,
    /// The client's connection; none when served by something else than [`listen`].
    pub(crate) client: Option<listen::Reset>,
    pub(crate) _permit: OwnedSemaphorePermit,
    pub(crate) _lease: Box<dyn Any + Send>,
}

impl Hold {
    /// Until the capsule is reset, or its life ends.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        let (reset, gone) = (self.reset.clone(), self.gone.clone());
        async move {
            tokio::select! {
                () = reset.cancelled_owned() => {}
                () = gone.cancelled_owned() => {}
            }
        }
    }

    /// An answer that has begun and cannot be finished: only a reset tells every client that it was cut off.
    pub(crate) fn cut(&self) {
        if let Some(client) = &self.client {
            client.reset();
        }
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}

/// An answer's body with what it holds.
struct Held {
    body: Body,
    hold: Hold,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Cuts it off also while its client reads nothing, when nobody asks for a frame.
    _cut: Option<AbortOnDropHandle<()>>,
}

/// The body, holding `hold` until it ends.
pub(crate) fn held(body: Body, hold: Hold) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let cut = hold.client.clone().map(|client| {
        let over = hold.over();
        AbortOnDropHandle::new(tokio::spawn(async move {
            over.await;
            client.reset();
        }))
    });
    let over = Box::pin(hold.over());
    Body::new(Held { body, hold, over, _cut: cut })
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over.as_mut().poll(cx).is_ready() {
            self.hold.cut();
            return Poll::Ready(Some(Err(axum::Error::new(io::Error::from(io::ErrorKind::ConnectionReset)))));
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(_))) = &frame {
            self.hold.cut();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
