//! How a command fails: a sentence, a hint, an exit code.

use crate::exit::Exit;
use client::CredentialsError;
use serde_json::json;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

/// The outcome of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Why a command failed, ready to be shown.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The program's exit code.
    pub exit: Exit,
    /// What went wrong; empty = nothing worth saying (the reader of our output went away).
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
    /// Code of the API's error catalogue.
    code: Option<&'static str>,
    /// Under which the server logged the cause.
    request_id: Option<String>,
}

impl Failure {
    /// A failure with this sentence.
    pub fn new(exit: Exit, message: impl Display) -> Self {
        Self { exit, message: message.to_string(), hint: None, code: None, request_id: None }
    }

    /// A plain failure.
    pub fn plain(message: impl Display) -> Self {
        Self::new(Exit::Failure, message)
    }

    /// Something about a file or directory.
    pub fn path(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::plain(format_args!("cannot {what} {}: {error}", path.display()))
    }

    /// With what the user can do about it.
    pub fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// With another exit code.
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Writes it to stderr: two lines for a person, one object for a program.
    pub fn report(&self, as_json: bool) {
        if self.message.is_empty() {
            return;
        }
        let mut stderr = io::stderr().lock();
        // Nobody is left to be told when stderr is gone.
        let _ = if as_json { writeln!(stderr, "{}", self.to_json()) } else { write!(stderr, "{}", self.to_text()) };
    }

    fn to_json(&self) -> serde_json::Value {
        json!({"error": {"code": self.code, "message": self.message, "hint": self.hint, "request_id": self.request_id}})
    }

    fn to_text(&self) -> String {
        let mut text = format!("error: {}\n", self.message);
        for (label, value) in [("hint", &self.hint), ("request id", &self.request_id)] {
            if let Some(value) = value {
                text.extend([label, ": ", value, "\n"]);
            }
        }
        text
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        let exit = match &error {
            client::Error::Api { error, .. } => Exit::of(error.code),
            client::Error::Unreachable { .. } | client::Error::TimedOut { .. } => Exit::Unreachable,
            _ => Exit::Failure,
        };
        let request_id = match &error {
            client::Error::Api { request_id, .. } if !request_id.is_empty() => Some(request_id.clone()),
            _ => None,
        };
        Self {
            exit,
            message: error.to_string(),
            hint: error.hint(),
            code: error.code().map(model::Code::as_str),
            request_id,
        }
    }
}

impl From<CredentialsError> for Failure {
    fn from(error: CredentialsError) -> Self {
        Self::plain(&error).hint(error.hint())
    }
}

/// Of writing our own output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::plain(""),
            _ => Self::plain(format_args!("cannot write the output: {error}")),
        }
    }
}
