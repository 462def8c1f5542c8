//! Where the API is and with which key: environment first, then the file `wrenn up` leaves.

use crate::limits::CREDENTIALS_BYTES_MAX;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Data directory of an installed Wrenn.
const INSTALLED_DIR: &str = "/var/lib/wrenn";
/// Name of the file in the data directory.
const FILE: &str = "credentials.json";

/// Address and key of an API.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Without `/v1`, as in `http://127.0.0.1:8000`.
    pub base_url: String,
    /// `wrn_…` or `e2b_…`.
    pub api_key: String,
}

impl std::fmt::Debug for Credentials {
    /// Leaves the key out, so that it reaches no log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Neither environment nor file.
    #[error("no credentials: WRENN_API_KEY is not set and {} does not exist", .0.display())]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what `wrenn up` writes.
    #[error("{} is not a credentials file: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl CredentialsError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing(_) => "start a platform with `wrenn up`, or set WRENN_BASE_URL and WRENN_API_KEY",
            Self::Unreadable { .. } => {
                "the file belongs to the user who ran `wrenn up`; use sudo, or set WRENN_API_KEY"
            }
            Self::Malformed { .. } => "`wrenn up` writes it again; set WRENN_DIR if this is another program's file",
        }
    }
}

impl Credentials {
    /// From `WRENN_BASE_URL` and `WRENN_API_KEY`; what is unset comes from `credentials.json` in `dir`.
    pub fn find(dir: &Path) -> Result<Self, CredentialsError> {
        Self::find_with(dir, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn find_with(dir: &Path, env: impl Fn(&str) -> Option<String>) -> Result<Self, CredentialsError> {
        match (env("WRENN_BASE_URL"), env("WRENN_API_KEY")) {
            (Some(base_url), Some(api_key)) => Ok(Self { base_url, api_key }),
            (base_url, api_key) => {
                let file = read(&dir.join(FILE))?;
                Ok(Self { base_url: base_url.unwrap_or(file.base_url), api_key: api_key.unwrap_or(file.api_key) })
            }
        }
    }
}

fn read(path: &Path) -> Result<model::rest::Credentials, CredentialsError> {
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(CREDENTIALS_BYTES_MAX).read_to_string(&mut text)).map_err(|source| {
        match source.kind() {
            io::ErrorKind::NotFound => CredentialsError::Missing(path.to_owned()),
            _ => CredentialsError::Unreadable { path: path.to_owned(), source },
        }
    })?;
    serde_json::from_str(&text).map_err(|source| CredentialsError::Malformed { path: path.to_owned(), source })
}

/// The data directory when none is named: `WRENN_DIR`; else `.wrenn` of the checkout this program was built in;
/// else `/var/lib/wrenn`.
#[must_use]
pub fn data_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("WRENN_DIR").filter(|dir| !dir.is_empty()) {
        return dir.into();
    }
    let program = std::env::current_exe().unwrap_or_default();
    checkout_of(&program).map_or_else(|| INSTALLED_DIR.into(), |checkout| checkout.join(".wrenn"))
}

fn checkout_of(program: &Path) -> Option<&Path> {
    program.ancestors().find(|dir| dir.join("crates/wrenn/Cargo.toml").is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE_TEXT: &str =
        r#"{"base_url":"http://file","api_key":"wrn_file","e2b_api_key":"e2b_","email":"","password":""}"#;

    #[test]
    fn environment_wins_over_the_file() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join(FILE), FILE_TEXT)?;
        let rows = [
            (None, None, ("http://file", "wrn_file")),
            (Some("http://env"), None, ("http://env", "wrn_file")),
            (None, Some("wrn_env"), ("http://file", "wrn_env")),
            (Some("http://env"), Some("wrn_env"), ("http://env", "wrn_env")),
        ];
        for (url, key, (want_url, want_key)) in rows {
            let env = |name: &str| if name == "WRENN_API_KEY" { key } else { url }.map(str::to_owned);
            let found = Credentials::find_with(dir.path(), env).map_err(io::Error::other)?;
            assert_eq!((found.base_url.as_str(), found.api_key.as_str()), (want_url, want_key));
            assert!(!format!("{found:?}").contains(want_key), "the key must not be printable by accident");
        }
        Ok(())
    }

    #[test]
    fn each_fault_of_the_file_has_its_own_error() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let find = || Credentials::find_with(dir.path(), |_| None);
        assert!(matches!(find(), Err(CredentialsError::Missing(_))));
        std::fs::write(dir.path().join(FILE), "{}")?;
        assert!(matches!(find(), Err(CredentialsError::Malformed { .. })));
        std::fs::remove_file(dir.path().join(FILE))?;
        std::fs::create_dir(dir.path().join(FILE))?;
        assert!(matches!(find(), Err(CredentialsError::Unreadable { .. })));
        Ok(())
    }
}
