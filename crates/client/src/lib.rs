//! Typed client of the REST API.
//!
//! Knows: the routes under `/v1/capsules`, where credentials come from, how long each call may take, and how to
//! tell a refusal of the server ([`Error::Api`]) from a server that is not there ([`Error::Unreachable`]).
//! Must never know: anything of servers, hosts or guests that is not in `model::rest`; it prints nothing and
//! keeps no state besides a connection pool.

mod capsules;
mod credentials;
mod error;
mod exec;
mod files;
mod http;
pub mod limits;
mod templates;

pub use credentials::{Credentials, CredentialsError, data_dir};
pub use error::Error;
pub use exec::{Output, Selector};
pub use files::Download;
pub use http::Client;
