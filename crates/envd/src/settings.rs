//! What `/init` sets: token, default user, working directory, environment.
//!
//! Kept in a file on a tmpfs as well, so that a daemon that died and was started again is not open to everybody.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

/// An access token. Compared in constant time, never shown.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// None for the empty string, which means "no token".
    pub fn new(token: String) -> Option<Self> {
        (!token.is_empty()).then_some(Self(token))
    }

    /// Whether `candidate` is this token.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(candidate).into()
    }

    /// The secret itself, to compute a signature with.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A consistent set of settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Demanded from every request when set.
    pub token: Option<Token>,
    /// User of requests that name none.
    pub user: String,
    /// Meaning of an empty path.
    pub workdir: Option<PathBuf>,
    /// Default environment of every process.
    pub env: BTreeMap<String, String>,
    /// Newest applied `timestamp` of an `/init`, nanoseconds since 1970.
    pub applied_ns: Option<i64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { token: None, user: "root".into(), workdir: None, env: BTreeMap::new(), applied_ns: None }
    }
}

/// The settings in force.
#[derive(Debug)]
pub struct SettingsStore {
    current: RwLock<Settings>,
    file: PathBuf,
}

impl SettingsStore {
    /// Loads what an earlier daemon left in `directory`, if anything.
    pub fn open(directory: &Path) -> Self {
        let file = directory.join("settings.json");
        let stored = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { current: RwLock::new(stored.unwrap_or_default()), file }
    }

    /// The settings at this moment.
    pub fn get(&self) -> Settings {
        self.read(Clone::clone)
    }

    /// Looks at the settings without copying them.
    pub fn read<T>(&self, look: impl FnOnce(&Settings) -> T) -> T {
        look(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes them and stores the result; the change is in force even when storing fails.
    pub fn update(&self, change: impl FnOnce(&mut Settings)) -> io::Result<()> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut current);
        let text = serde_json::to_vec(&*current)?;
        let temporary = self.file.with_extension("new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&text)?;
        fs::rename(temporary, &self.file)
    }
}
