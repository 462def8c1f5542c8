//! Why a server does not start, and what to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a server does not start. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something listens there already.
    #[error("{0} is in use; stop what listens there (`ss -ltnp` shows it) or listen on another address")]
    AddressInUse(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; use an address of this machine and a port you may open")]
    Listen {
        /// As asked.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The database cannot be opened.
    #[error(transparent)]
    Database(#[from] store::OpenError),
    /// A file of the data directory cannot be used.
    #[error("{path}: {source}; the data directory must be writable for the user that runs the server")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the data directory does not hold what it should.
    #[error("{path} is damaged ({reason}); move it away, it is made anew")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The first account cannot be made.
    #[error("cannot set up the first account: {0}")]
    Account(#[from] identity::IdentityError),
    /// The fleet cannot be taken up.
    #[error("cannot take up the capsules of the database: {0}")]
    Fleet(model::Error),
}
