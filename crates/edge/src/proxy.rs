//! One request, one hop.

use crate::body::{self, Hold};
use crate::pools::{Place, Pools};
use crate::{Backend, Hop, Refusal, Target, headers, hop, is_guest_control, tunnel};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri};
use hyper_util::client::legacy;
use model::CapsuleId;
use std::error::Error as _;
use std::io;
use std::sync::Arc;

/// A reverse proxy for one [`Hop`]. Clones share everything.
pub struct Proxy<B> {
    inner: Arc<Inner<B>>,
}

struct Inner<B> {
    backend: B,
    hop: Hop,
    pools: Pools,
}

impl<B> Clone for Proxy<B> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<B: Backend> Proxy<B> {
    /// A proxy that asks `backend`.
    pub fn new(backend: B, hop: Hop) -> Self {
        Self { inner: Arc::new(Inner { backend, hop, pools: Pools::default() }) }
    }

    /// Who it asks.
    pub fn backend(&self) -> &B {
        &self.inner.backend
    }

    /// Forwards a request whose path is `/proxy/{id}/{port}/…`; for agents. Refusals become answers that
    /// the control plane's proxy understands. The guest daemon's control routes do not exist here.
    pub async fn serve(&self, mut request: Request) -> Response {
        let result = match take_prefix(request.uri()) {
            Some((target, rest)) if is_guest_control(target.port, rest.path()) => Err((Refusal::Hidden, Some(target))),
            Some((target, rest)) => {
                *request.uri_mut() = rest;
                self.forward(target, request).await.map_err(|refusal| (refusal, Some(target)))
            }
            None => Err((Refusal::Malformed, None)),
        };
        result.unwrap_or_else(|(refusal, target)| {
            tracing::debug!(?target, %refusal, "not forwarded");
            hop::refuse(refusal)
        })
    }

    /// Forwards a request to a target. Dropping the future, or the answer's body, ends the request upstream.
    pub async fn forward(&self, target: Target, mut request: Request) -> Result<Response, Refusal> {
        if request.method() == Method::CONNECT {
            return Err(Refusal::Malformed);
        }
        let admission = self.inner.backend.admit(target).await?;
        let Place { client, reset, permit } = self.inner.pools.enter(target, &admission)?;
        let hold = Hold {
            reset,
            gone: admission.gone,
            client: request.extensions().get::<listen::Reset>().cloned(),
            _permit: permit,
            _lease: admission.lease,
        };
        let wants_upgrade = headers::upgrade(request.headers()).is_some();
        let client_upgrade = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
        let outgoing = self.inner.hop.request(&target, request)?;
        let answer = tokio::select! {
            answer = client.request(outgoing) => answer.map_err(|error| self.refusal(&error))?,
            () = hold.reset.cancelled() => return Err(Refusal::Unknown),
            () = hold.gone.cancelled() => return Err(Refusal::Unreachable),
        };
        let mut answer = self.inner.hop.response(&target, answer.map(Body::new))?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let client_upgrade = client_upgrade.ok_or(Refusal::BadAnswer)?;
            tunnel::open(client_upgrade, hyper::upgrade::on(&mut answer), hold);
            return Ok(answer.map(|_| Body::empty()));
        }
        Ok(answer.map(|body| body::held(body, hold)))
    }

    /// Closes the idle connections of a capsule, before it is paused for instance.
    pub fn evict(&self, capsule: CapsuleId) {
        self.inner.pools.evict(capsule);
    }

    /// Ends everything of a capsule at once; clients with an open answer or tunnel see a reset connection.
    /// Call it when the backend refuses the capsule already, so that whoever asks next hears it is gone.
    pub fn reset(&self, capsule: CapsuleId) {
        self.inner.pools.reset(capsule);
    }

    fn refusal(&self, error: &legacy::Error) -> Refusal {
        tracing::debug!(%error, source = ?error.source(), "upstream failed");
        if !error.is_connect() {
            return Refusal::BadAnswer;
        }
        match (self.inner.hop, io_kind(error)) {
            (Hop::ToGuest, Some(io::ErrorKind::ConnectionRefused)) => Refusal::PortClosed,
            _ => Refusal::Unreachable,
        }
    }
}

/// Splits the target off the path; the rest keeps its spelling and its query.
fn take_prefix(uri: &Uri) -> Option<(Target, Uri)> {
    let (target, rest) = Target::from_path(uri.path())?;
    let slash = if rest.starts_with('/') { "" } else { "/" };
    let rest = match uri.query() {
        Some(query) => format!("{slash}{rest}?{query}"),
        None => format!("{slash}{rest}"),
    };
    Some((target, Uri::from(PathAndQuery::try_from(rest).ok()?)))
}

fn io_kind(error: &legacy::Error) -> Option<io::ErrorKind> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        source = error.source();
    }
    None
}
