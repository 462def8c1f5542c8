//! How an agent's errors read to a client of the API.

use connectrpc::{ConnectError, ErrorCode};
use model::{Code, Error};

/// Begins the text of an agent's refusal to load memory of another compatibility class.
pub const INCOMPATIBLE: &str = "snapshot_incompatible: ";

/// The API error for what an agent answered. Codes a guest or agent chose on purpose pass through with their
/// text; everything else is an [`Code::AgentError`].
#[must_use]
pub fn error(error: &ConnectError) -> Error {
    let code = match error.code {
        ErrorCode::NotFound => Code::NotFound,
        ErrorCode::InvalidArgument | ErrorCode::OutOfRange | ErrorCode::Unauthenticated => Code::InvalidRequest,
        ErrorCode::FailedPrecondition | ErrorCode::AlreadyExists | ErrorCode::Aborted => Code::Conflict,
        ErrorCode::PermissionDenied => Code::Forbidden,
        ErrorCode::ResourceExhausted => Code::NoSpace,
        ErrorCode::DeadlineExceeded => Code::Timeout,
        ErrorCode::Unavailable => Code::HostUnavailable,
        _ => Code::AgentError,
    };
    let text = error.message.as_deref().filter(|text| !text.is_empty());
    let message = match (code, text) {
        (Code::HostUnavailable, _) => "the capsule's host cannot be reached".to_owned(),
        (_, Some(text)) => text.to_owned(),
        (_, None) => code.meaning().to_owned(),
    };
    Error::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_meaning() {
        let rows = [
            (ErrorCode::NotFound, Code::NotFound),
            (ErrorCode::AlreadyExists, Code::Conflict),
            (ErrorCode::FailedPrecondition, Code::Conflict),
            (ErrorCode::InvalidArgument, Code::InvalidRequest),
            (ErrorCode::PermissionDenied, Code::Forbidden),
            (ErrorCode::DeadlineExceeded, Code::Timeout),
            (ErrorCode::ResourceExhausted, Code::NoSpace),
            (ErrorCode::Unavailable, Code::HostUnavailable),
            (ErrorCode::Internal, Code::AgentError),
            (ErrorCode::DataLoss, Code::AgentError),
        ];
        for (connect, code) in rows {
            assert_eq!(error(&ConnectError::new(connect, "text")).code, code, "{connect:?}");
        }
    }
}
