//! Opening the database.

use crate::error::StoreError;
use crate::migration::Migrator;
use crate::seal::{KeyError, Seal};
use sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode, SqlxPostgresConnector, SqlxSqliteConnector,
    TransactionOptions, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Connections of a pool. `SQLite`: one writer at a time, but readers beside it.
const CONNECTIONS_MAX: u32 = 10;
/// How long a call waits for a connection, and on `SQLite` for the writer before it.
const BUSY: Duration = Duration::from_secs(10);

/// Where the data are.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of `secret.key`, and of `wrenn.db` when there is no URL.
    pub directory: PathBuf,
    /// `postgres://…`; absent = `SQLite`.
    pub database_url: Option<String>,
}

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// The directory or lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another server has it.
    #[error("{0} is in use by another server; on SQLite there can be only one (set DATABASE_URL for Postgres)")]
    InUse(PathBuf),
    /// The key for secrets cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Not a URL of a database we know.
    #[error("DATABASE_URL: expected postgres://…")]
    Url,
    /// No connection.
    #[error("cannot connect to the database: {0}")]
    Connect(String),
    /// The tables cannot be brought up to date.
    #[error("cannot migrate the database: {0}")]
    Migrate(String),
}

/// Everything the control plane remembers. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    db: DatabaseConnection,
    seal: Seal,
    written: Notify,
    /// Keeps a second server out of a `SQLite` file for as long as this process lives, however it ends.
    _lock: Option<File>,
}

impl Store {
    /// Opens the database and brings its tables up to date.
    pub async fn open(options: &Options) -> Result<Self, OpenError> {
        let directory = &options.directory;
        // Nobody else's business, down to the names in it.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| OpenError::Io { path: directory.clone(), source })?;
        let (db, lock) = if let Some(url) = &options.database_url {
            (postgres(url).await?, None)
        } else {
            let path = directory.join("wrenn.db");
            let lock = lock(&path)?;
            (sqlite(&path).await?, Some(lock))
        };
        let seal = Seal::load(&directory.join("secret.key"))?;
        Migrator::up(&db, None).await.map_err(|error: DbErr| OpenError::Migrate(error.to_string()))?;
        Ok(Self(Arc::new(Inner { db, seal, written: Notify::new(), _lock: lock })))
    }

    /// Takes the tables down again, data included. For those who go back to a release before them.
    pub async fn migrate_down(&self) -> Result<(), OpenError> {
        Migrator::down(self.db(), None).await.map_err(|error: DbErr| OpenError::Migrate(error.to_string()))
    }

    /// Brings the tables up to date, as [`Store::open`] did.
    pub async fn migrate_up(&self) -> Result<(), OpenError> {
        Migrator::up(self.db(), None).await.map_err(|error: DbErr| OpenError::Migrate(error.to_string()))
    }

    pub(crate) fn db(&self) -> &DatabaseConnection {
        &self.0.db
    }

    pub(crate) fn seal(&self) -> &Seal {
        &self.0.seal
    }

    /// Told whenever an event may have been written.
    pub(crate) fn written(&self) -> &Notify {
        &self.0.written
    }

    /// A transaction that may write; see the crate's documentation.
    pub(crate) async fn begin(&self) -> Result<DatabaseTransaction, StoreError> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        Ok(self.db().begin_with_options(options).await?)
    }

    /// Ends a transaction that wrote an event.
    pub(crate) async fn commit(&self, transaction: DatabaseTransaction) -> Result<(), StoreError> {
        transaction.commit().await?;
        self.written().notify_one();
        Ok(())
    }
}

fn lock(database: &Path) -> Result<File, OpenError> {
    let path = database.with_extension("db.lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|source| OpenError::Io { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(database.to_owned())),
        Err(TryLockError::Error(source)) => Err(OpenError::Io { path, source }),
    }
}

async fn sqlite(path: &Path) -> Result<DatabaseConnection, OpenError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY)
        .foreign_keys(true);
    // A file does not hang up: there is nothing to test before each use.
    let pool =
        SqlitePoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(BUSY).test_before_acquire(false);
    let pool = pool.connect_with(options).await.map_err(|error| OpenError::Connect(error.to_string()))?;
    Ok(SqlxSqliteConnector::from_sqlx_sqlite_pool(pool))
}

async fn postgres(url: &str) -> Result<DatabaseConnection, OpenError> {
    let options = PgConnectOptions::from_str(url).map_err(|_| OpenError::Url)?;
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(BUSY);
    let pool = pool.connect_with(options).await.map_err(|error| OpenError::Connect(error.to_string()))?;
    Ok(SqlxPostgresConnector::from_sqlx_postgres_pool(pool))
}
