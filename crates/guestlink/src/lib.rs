//! The guest daemon's client.
//!
//! Knows: envd's HTTP routes and RPC services, the user and token headers, and that long streams must not
//! share time limits or connections with short calls.
//! Must never know: hosts, VMMs, or how a connection to the guest is opened: a [`dial::Dialler`] is handed in.
//!
//! A guest is hostile. Every byte it sends is bounded here: head time, body sizes, message sizes.

mod files;
mod init;

pub use files::FileError;
pub use init::{Init, InitError, Memory};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use connectrpc::client::{CallOptions, ClientConfig};
use dial::{Client, Dialler, Limits, Transport};
use http::Uri;
use proto::filesystem::FilesystemClient;
use proto::process::ProcessClient;
use std::time::Duration;

/// Port of the guest daemon.
pub const PORT: u16 = 49_983;

/// Header with the daemon's secret.
pub const TOKEN_HEADER: &str = "x-access-token";

/// Limit of a short call.
pub const CALL_LIMIT: Duration = Duration::from_mins(2);
/// Limit for the head of an answer.
pub const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Limit of `/snapshot/prepare`: a limit, not a sleep.
pub const PREPARE_LIMIT: Duration = Duration::from_secs(3);
/// Largest RPC message taken from a guest.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// The same of a process's stream, of which many may wait for their reader; the daemon's largest is a terminal's past, 256 KiB.
const STREAM_MESSAGE_BYTES_MAX: usize = 512 << 10;

/// Clients of one guest daemon, each with a pool of its own. Dropping the last clone closes its idle connections.
#[derive(Clone)]
pub struct Envd {
    timed: Client,
    streaming: Client,
    filesystem: FilesystemClient<Transport>,
    process: ProcessClient<Transport>,
    token: String,
}

impl Envd {
    /// Of the daemon behind `dialler`, which accepts `token`; an empty one is not sent.
    pub fn new(dialler: Dialler, token: String) -> Self {
        let limits = Limits::default();
        let timed = dial::client(dialler.clone(), limits);
        let streaming = dial::client(dialler, limits);
        let mut config = ClientConfig::new(Uri::from_static("http://guest"))
            .with_default_max_message_size(MESSAGE_BYTES_MAX)
            .proto();
        if !token.is_empty() {
            config = config.with_default_header(TOKEN_HEADER, token.clone());
        }
        Self {
            filesystem: FilesystemClient::new(Transport::new(timed.clone()), config.clone()),
            process: ProcessClient::new(Transport::new(streaming.clone()), config),
            timed,
            streaming,
            token,
        }
    }

    /// File system calls, with [`CALL_LIMIT`] by [`options`].
    pub fn filesystem(&self) -> &FilesystemClient<Transport> {
        &self.filesystem
    }

    /// Process calls, without a time limit: a deadline sent to `Start` is the *life* of the process.
    pub fn process(&self) -> &ProcessClient<Transport> {
        &self.process
    }

    /// The daemon's secret.
    pub fn token(&self) -> &str {
        &self.token
    }
}

/// Options of a call made as `user`; an empty one is the guest's default user.
#[must_use]
pub fn options(user: &str) -> CallOptions {
    let options = CallOptions::default();
    if user.is_empty() { options } else { options.with_header(http::header::AUTHORIZATION, basic(user)) }
}

/// Options of a call that is answered by a process's stream.
#[must_use]
pub fn stream_options(user: &str) -> CallOptions {
    options(user).with_max_message_size(STREAM_MESSAGE_BYTES_MAX)
}

/// Options of a short call.
#[must_use]
pub fn timed_options(user: &str) -> CallOptions {
    options(user).with_timeout(CALL_LIMIT)
}

/// Basic authentication with a user name and no password, which is how the daemon is told whom to run as.
fn basic(user: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:")))
}
