//! What can go wrong with a call.

use model::Code;
use std::io;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused or failed, and said so.
    #[error("{error}")]
    Api {
        /// What it said.
        error: model::Error,
        /// Under which it logged the cause; empty when it named none.
        request_id: String,
    },
    /// Nobody answers at this address.
    #[error("cannot reach {base_url}: {reason}")]
    Unreachable {
        /// The address.
        base_url: String,
        /// Of the operating system or the resolver.
        reason: String,
    },
    /// The address is not one.
    #[error("{base_url:?} is not a web address: {reason}")]
    BadAddress {
        /// As given.
        base_url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer from {base_url} in time")]
    TimedOut {
        /// The address.
        base_url: String,
    },
    /// Something answers there, but it does not speak this API.
    #[error("the answer {status} of {base_url} is not one of this API: {reason}")]
    NotThisApi {
        /// The address.
        base_url: String,
        /// HTTP status.
        status: u16,
        /// What was expected.
        reason: String,
    },
    /// The connection broke in the middle.
    #[error("the connection to {base_url} broke: {reason}")]
    Broken {
        /// The address.
        base_url: String,
        /// Of the transport.
        reason: String,
    },
    /// What the caller wanted to send cannot be read.
    #[error("cannot read what is to be sent: {0}")]
    Source(#[source] io::Error),
}

impl Error {
    /// The code of the server's refusal, if it is one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Api { error, .. } => Some(error.code),
            _ => None,
        }
    }

    /// What the user can do about it, in one sentence.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Api { error, .. } => Some(sentence(error.code.remedy())),
            Self::Unreachable { .. } => Some("is `wrenn up` running? WRENN_BASE_URL says where".to_owned()),
            Self::BadAddress { .. } => Some("WRENN_BASE_URL looks like `http://127.0.0.1:8000`".to_owned()),
            Self::TimedOut { .. } => Some("the server is up but slow; its log is in $WRENN_DIR/logs".to_owned()),
            Self::NotThisApi { .. } => {
                Some("WRENN_BASE_URL is the address without `/v1`; is another program there?".to_owned())
            }
            Self::Broken { .. } => {
                Some("the server may have been stopped; `wrenn capsule list` shows what is left".to_owned())
            }
            Self::Source(_) => None,
        }
    }
}

/// A remedy of the catalogue as a hint: hints begin in lower case and end without a full stop.
fn sentence(remedy: &str) -> String {
    let text = remedy.trim_end_matches('.');
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_hint_in_the_style_of_hints() {
        for code in Code::ALL {
            let error = Error::Api { error: model::Error::new(*code, "x"), request_id: String::new() };
            let hint = error.hint().unwrap_or_default();
            assert!(
                !hint.is_empty() && !hint.ends_with('.') && !hint.starts_with(char::is_uppercase),
                "{code}: {hint}"
            );
        }
    }
}
