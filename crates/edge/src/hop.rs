//! The two hops of a request and what each changes in it.

use crate::{Refusal, Target, headers, location};
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use http::header::{EXPECT, HOST, HeaderName, HeaderValue, LOCATION};
use http::{Uri, Version};
use std::net::SocketAddr;

/// Marks an agent's own answer, so that the control plane can tell it from the guest's.
const REFUSAL: HeaderName = HeaderName::from_static("x-wrenn-refusal");

/// From where to where a proxy forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// Control plane → agent: the path gets the prefix `/proxy/{id}/{port}`, redirects lose it.
    ToAgent,
    /// Agent → guest: the path has lost the prefix, redirects get it; `Host` becomes `localhost:{port}`.
    ToGuest,
}

impl Hop {
    /// The request as the next one gets it. The path stays as the client spelled it.
    pub(crate) fn request(self, target: &Target, request: Request) -> Result<Request, Refusal> {
        let (mut head, body) = request.into_parts();
        let upgrade = headers::upgrade(&head.headers);
        headers::strip_hop_by_hop(&mut head.headers, upgrade);
        // Answered by our own server before the body is read.
        head.headers.remove(EXPECT);
        let host = head.headers.remove(HOST);
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let path = match self {
            Self::ToAgent => {
                let client = head.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
                headers::add_forwarded(&mut head.headers, client, host.as_ref());
                format!("{}{path}", target.path_prefix())
            }
            Self::ToGuest => path.to_owned(),
        };
        let uri = Uri::builder().scheme("http").authority(self.authority(target)).path_and_query(path).build();
        let mut outgoing = Request::new(body);
        *outgoing.method_mut() = head.method;
        *outgoing.uri_mut() = uri.map_err(|_| Refusal::Malformed)?;
        *outgoing.version_mut() = Version::HTTP_11;
        *outgoing.headers_mut() = head.headers;
        Ok(outgoing)
    }

    /// The answer as the one before gets it; or the refusal an agent sent.
    pub(crate) fn response(self, target: &Target, mut response: Response) -> Result<Response, Refusal> {
        // An HTTP/1.0 program must not make our own answer HTTP/1.0.
        *response.version_mut() = Version::HTTP_11;
        let headers = response.headers_mut();
        let refusal = headers.remove(REFUSAL);
        if let (Self::ToAgent, Some(refusal)) = (self, refusal) {
            return Err(Refusal::parse(refusal.as_bytes()).unwrap_or(Refusal::BadAnswer));
        }
        let upgrade = headers::upgrade(headers);
        headers::strip_hop_by_hop(headers, upgrade);
        let rewritten = headers.get(LOCATION).and_then(|value| value.to_str().ok()).and_then(|text| match self {
            Self::ToAgent => location::strip_prefix(text, target),
            Self::ToGuest => location::add_prefix(text, target),
        });
        if let Some(value) = rewritten.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(LOCATION, value);
        }
        Ok(response)
    }

    fn authority(self, target: &Target) -> String {
        match self {
            Self::ToAgent => "agent".to_owned(),
            // Dev servers and notebooks accept this name without configuration.
            Self::ToGuest => format!("localhost:{}", target.port),
        }
    }
}

/// An agent's answer that says why.
pub(crate) fn refuse(refusal: Refusal) -> Response {
    let mut response = Response::new(Body::from(refusal.to_string()));
    *response.status_mut() = refusal.status();
    response.headers_mut().insert(REFUSAL, HeaderValue::from_static(refusal.as_str()));
    response
}
