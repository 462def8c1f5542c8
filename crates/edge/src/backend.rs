//! The question the proxy asks before every request.

use crate::Target;
use http::StatusCode;
use std::any::Any;
use std::future::Future;
use tokio_util::sync::CancellationToken;

/// Decides about requests and opens connections.
pub trait Backend: Send + Sync + 'static {
    /// May a request go there now? It may take time, while a capsule starts for instance.
    fn admit(&self, target: Target) -> impl Future<Output = Result<Admission, Refusal>> + Send;
}

impl<B: Backend> Backend for std::sync::Arc<B> {
    async fn admit(&self, target: Target) -> Result<Admission, Refusal> {
        (**self).admit(target).await
    }
}

/// Leave to forward one request.
pub struct Admission {
    /// Life of the capsule; connections of another life are not used.
    pub generation: u64,
    /// Opens connections to the target in this life.
    pub dialler: dial::Dialler,
    /// Fires when this life ends: whatever is open then is cut.
    pub gone: CancellationToken,
    /// Held until the answer's last byte, or until the tunnel closes.
    pub lease: Box<dyn Any + Send>,
}

impl Admission {
    /// To a target whose lives somebody behind it tells apart, an agent for instance.
    #[must_use]
    pub fn beyond(dialler: dial::Dialler) -> Self {
        Self { generation: 0, dialler, gone: CancellationToken::new(), lease: Box::new(()) }
    }
}

/// Why a request did not reach its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such capsule.
    #[error("the capsule was not found")]
    Unknown,
    /// It exists, but has no VM.
    #[error("the capsule is not running")]
    NotRunning,
    /// It is being started, paused or resumed.
    #[error("the capsule is still transitioning")]
    Transitioning,
    /// Nothing listens on the port.
    #[error("the port is not open")]
    PortClosed,
    /// Its host, or its guest, cannot be reached.
    #[error("the capsule cannot be reached")]
    Unreachable,
    /// What listens there closed the connection or did not answer in HTTP.
    #[error("the port did not answer in HTTP")]
    BadAnswer,
    /// As many requests as allowed are open.
    #[error("too many open requests to this capsule")]
    TooMany,
    /// The path belongs to the host alone.
    #[error("not found")]
    Hidden,
    /// The request names no target, or is a CONNECT.
    #[error("the request cannot be forwarded")]
    Malformed,
}

impl Refusal {
    const ALL: [Self; 9] = [
        Self::Unknown,
        Self::NotRunning,
        Self::Transitioning,
        Self::PortClosed,
        Self::Unreachable,
        Self::BadAnswer,
        Self::TooMany,
        Self::Hidden,
        Self::Malformed,
    ];

    /// Between agent and control plane, in a header.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::NotRunning => "not-running",
            Self::Transitioning => "transitioning",
            Self::PortClosed => "port-closed",
            Self::Unreachable => "unreachable",
            Self::BadAnswer => "bad-answer",
            Self::TooMany => "too-many",
            Self::Hidden => "hidden",
            Self::Malformed => "malformed",
        }
    }

    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.as_str().as_bytes() == text)
    }

    /// HTTP status of an answer that says it.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Unknown | Self::Hidden => StatusCode::NOT_FOUND,
            Self::NotRunning => StatusCode::CONFLICT,
            Self::Transitioning => StatusCode::SERVICE_UNAVAILABLE,
            Self::PortClosed | Self::Unreachable | Self::BadAnswer => StatusCode::BAD_GATEWAY,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Malformed => StatusCode::BAD_REQUEST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_survive_the_wire() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::parse(refusal.as_str().as_bytes()), Some(refusal));
        }
        assert_eq!(Refusal::parse(b"other"), None);
    }
}
