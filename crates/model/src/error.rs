//! The error catalogue: every code a client can see, its HTTP status, whether a retry can help, and what to do.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! catalogue {
    ($( $variant:ident, $code:literal, $status:literal, $retry:literal, $meaning:literal, $remedy:literal; )*) => {
        /// A machine-readable error code. Clients switch on it; its spelling never changes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $( #[doc = $meaning] $variant, )* }

        impl Code {
            /// Every code, in the order of the catalogue.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// As sent in `error.code`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $code, )* }
            }

            /// HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $( Self::$variant => $status, )* }
            }

            /// Whether the same request can succeed later.
            #[must_use]
            pub const fn retryable(self) -> bool {
                match self { $( Self::$variant => $retry, )* }
            }

            /// What it means, for the docs.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $( Self::$variant => $meaning, )* }
            }

            /// What the reader can do.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $( Self::$variant => $remedy, )* }
            }
        }
    };
}

catalogue! {
    InvalidRequest, "invalid_request", 400, false, "The request is malformed or a field is missing or out of range.", "Correct the field the message names.";
    Unauthorized, "unauthorized", 401, false, "No credential, or one that is not valid.", "Send the key as `X-API-Key`; see credentials.json in the data directory.";
    Forbidden, "forbidden", 403, false, "The credential is valid but may not do this.", "Use a credential of the owning team, or ask an administrator.";
    NotFound, "not_found", 404, false, "There is no such thing, or it belongs to another team.", "Check the id or the path.";
    MethodNotAllowed, "method_not_allowed", 405, false, "The path exists, but not for this method.", "See the API document.";
    Conflict, "conflict", 409, false, "It exists already, or the guest refuses it in its present state.", "Read the message; remove or rename what is in the way.";
    InvalidState, "invalid_state", 409, false, "The capsule is in the wrong status for this.", "Look at its status: a paused capsule can be resumed.";
    SnapshotIncompatible, "snapshot_incompatible", 409, false, "The saved memory was made by another VMM, CPU model or kernel.", "Resume with `?memory=discard` to boot from the disk.";
    NameReserved, "name_reserved", 409, false, "A template of the platform has this name.", "Choose another name.";
    TemplateNameTaken, "template_name_taken", 409, false, "A template of the team has this name.", "Choose another name, or replace it: `?overwrite=true`, `--overwrite`.";
    TooLarge, "too_large", 413, false, "The body is over the limit.", "Use the streaming route for large files.";
    RateLimited, "rate_limited", 429, true, "Too many requests.", "Wait as long as `Retry-After` says.";
    Internal, "internal_error", 500, true, "A fault of the server; the cause is in its log under the request id.", "Try again; if it stays, look at the log.";
    AgentError, "agent_error", 502, true, "The host or the guest failed.", "Try again; `wrenn why ID` shows what the host knows.";
    NoHosts, "no_hosts_available", 503, true, "No host can take this.", "Start or add a host, or wait for capacity.";
    HostUnavailable, "host_unavailable", 503, true, "The capsule's host cannot be reached.", "Wait for the host to come back.";
    Unavailable, "unavailable", 503, true, "The capsule is not ready yet.", "Try again in a moment.";
    NoSpace, "no_space", 507, false, "There is not enough disk space.", "Free space under the data directory, or delete capsules.";
    Timeout, "timeout", 504, true, "It took longer than its limit.", "Raise the limit, or run it in the background.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    /// Unknown codes of a newer server read as [`Code::Internal`].
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self::ALL.iter().copied().find(|code| code.as_str() == text).unwrap_or(Self::Internal))
    }
}

/// An error a client may see: a code and a sentence about what happened. It carries no cause: causes are logged
/// where they are known and never returned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind.
    pub code: Code,
    /// What happened, for a person.
    pub message: String,
}

impl Error {
    /// An error with this message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Shorthand for [`Code::InvalidRequest`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    /// Shorthand for [`Code::NotFound`]; `what` as in "capsule".
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("{what} not found"))
    }
}

/// The body of every error answer of the REST API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What [`ErrorBody`] wraps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// What kind.
    pub code: Code,
    /// What happened.
    pub message: String,
    /// Under which the server logged it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// Whether the same request can succeed later.
    #[serde(default)]
    pub retryable: bool,
    /// More about it, by code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

impl ErrorBody {
    /// The answer for an error of the request with this id.
    #[must_use]
    pub fn new(error: &Error, request_id: String) -> Self {
        Self {
            error: ErrorDetail {
                code: error.code,
                message: error.message.clone(),
                request_id,
                retryable: error.code.retryable(),
                details: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn catalogue_is_complete_and_unambiguous() {
        let spellings: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(spellings.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!((400..600).contains(&code.status()), "{code}");
            assert!(code.meaning().ends_with('.') && code.remedy().ends_with('.'), "{code}");
        }
    }
}
