//! Where the program's own words go: lines `time LEVEL target: message key=value …` on standard error and in a file.
//!
//! Knows: levels, the log file and its reopening after a rotation.
//! Must never know: the domain. Nothing here has heard of a capsule.

mod file;

use file::LogFile;
use std::path::{Path, PathBuf};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer};

/// What to log, and where besides standard error.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `debug`, `info`, `warn`, `warning` or `error`; anything else means `info`. From `LOG_LEVEL`.
    pub level: Option<String>,
    /// Log file; its directory is made (mode 0750), the file has mode 0640.
    pub file: Option<PathBuf>,
    /// Standard error gets warnings and errors only: for a program that talks to a person there.
    pub quiet: bool,
}

/// The logs of this process.
#[derive(Debug, Clone)]
pub struct Logs {
    file: Option<LogFile>,
}

/// Starts logging. A file that cannot be written is not fatal: then there is one warning, and standard error alone.
///
/// # Errors
/// When this process logs already.
pub fn init(options: &Options) -> Result<Logs, TryInitError> {
    let (file, problem) = match options.file.as_deref().map(LogFile::open) {
        None => (None, None),
        Some(Ok(file)) => (Some(file), None),
        Some(Err(error)) => (None, Some(error)),
    };
    let to_file = file.clone().map(|file| layer().with_ansi(false).with_writer(move || file.clone()));
    let to_terminal =
        layer().with_writer(std::io::stderr).with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let most = if options.quiet { LevelFilter::WARN } else { LevelFilter::TRACE };
    tracing_subscriber::registry()
        .with(filter(options.level.as_deref()))
        .with(to_terminal.with_filter(most))
        .with(to_file)
        .try_init()?;
    if let Some(error) = problem {
        let path = options.file.as_deref().unwrap_or(Path::new(""));
        tracing::warn!(%error, path = %path.display(), "the log file cannot be written; logging to standard error only");
    }
    Ok(Logs { file })
}

impl Logs {
    /// Opens the file anew, after it was renamed. On failure the former one stays in use.
    pub fn reopen(&self) {
        if let Some(Err(error)) = self.file.as_ref().map(LogFile::reopen) {
            tracing::warn!(%error, "the log file cannot be reopened");
        }
    }

    /// Does so at every SIGHUP, for as long as the runtime lives. Must be called inside a tokio runtime.
    pub fn reopen_on_hangup(&self) {
        let logs = self.clone();
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()) {
            Ok(mut hangups) => {
                tokio::spawn(async move {
                    while hangups.recv().await.is_some() {
                        logs.reopen();
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "SIGHUP cannot be watched"),
        }
    }
}

/// Libraries that report every statement or frame stay one level quieter.
fn filter(level: Option<&str>) -> EnvFilter {
    let (own, libraries) = match level.map(str::to_ascii_lowercase).as_deref() {
        Some("debug") => ("debug", "info"),
        Some("warn" | "warning") => ("warn", "warn"),
        Some("error") => ("error", "error"),
        _ => ("info", "warn"),
    };
    let noisy = ["hyper", "h2", "sqlx", "sea_orm", "rustls", "tungstenite"];
    let directives = noisy.map(|target| format!("{target}={libraries}")).join(",");
    EnvFilter::new(format!("{own},{directives}"))
}
