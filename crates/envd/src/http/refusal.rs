//! Errors of the HTTP surface: `{"code": <status>, "message": "…"}`.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::daemon::Interrupted;
use crate::filesystem::FsError;
use crate::users::UnknownUser;

/// A request that was not done.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    /// With this status; clients see the message.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 401.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "code": self.status.as_u16(), "message": self.message });
        (self.status, Json(body)).into_response()
    }
}

impl From<FsError> for Refusal {
    fn from(error: FsError) -> Self {
        let status = match error {
            FsError::NotFound(_) | FsError::NoWatcher(_) => StatusCode::NOT_FOUND,
            FsError::NotADirectory(_)
            | FsError::IsADirectory(_)
            | FsError::NotRegular(_)
            | FsError::NetworkMount(_)
            | FsError::Loop(_)
            | FsError::Path(_) => StatusCode::BAD_REQUEST,
            FsError::AlreadyExists(_) => StatusCode::CONFLICT,
            FsError::User(_) => StatusCode::UNAUTHORIZED,
            FsError::NoSpace(_) => StatusCode::INSUFFICIENT_STORAGE,
            FsError::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            FsError::Io { .. } | FsError::Interrupted(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<UnknownUser> for Refusal {
    fn from(error: UnknownUser) -> Self {
        Self::unauthorized(error.to_string())
    }
}

impl From<Interrupted> for Refusal {
    fn from(error: Interrupted) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}
