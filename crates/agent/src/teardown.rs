//! Removing everything an agent has on its host, without a running agent: `wrenn down`.

use crate::options::{Layout, groups, runtime_dir};
use std::io;
use std::path::Path;

/// Why something is still there.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    /// A file or directory.
    #[error("cannot remove {path}: {source}")]
    Files {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Namespaces, links or rules.
    #[error(transparent)]
    Network(#[from] network::DestroyError),
    /// The pool.
    #[error(transparent)]
    Pool(#[from] disk::CloseError),
}

/// Ends every VM of this data directory and frees networks and mounts. Paused capsules stay on the disk, unless
/// `purge` asks for everything to go.
pub async fn teardown(dir: &Path, purge: bool) -> Result<(), TeardownError> {
    let layout = Layout(dir);
    let files = |path: &Path| {
        let path = path.to_owned();
        move |source| TeardownError::Files { path, source }
    };
    let instance = layout.instance().map_err(files(dir))?;
    let runtime = runtime_dir(&instance);
    if let Ok(entries) = std::fs::read_dir(&runtime) {
        for entry in entries.flatten() {
            if let Err(error) = keeper::end(&entry.path()).await {
                tracing::error!(path = %entry.path().display(), %error, "its VMM may still run");
            }
        }
    }
    let group = groups(&instance);
    keeper::cgroup::remove_parent(&group).map_err(files(Path::new(&group)))?;
    network::destroy_all(&instance, dir).await?;
    remove(&runtime).map_err(files(&runtime))?;
    remove(&dir.join("run")).map_err(files(dir))?;
    if purge {
        disk::Pool::purge(dir)?;
        for name in ["events", "tier.json", "instance"] {
            let path = dir.join(name);
            remove(&path).map_err(files(&path))?;
        }
    } else if dir.join("pool").exists() {
        match disk::Pool::open(dir, &disk::PoolOptions::default()) {
            Ok(pool) => pool.close()?,
            Err(error) => tracing::warn!(%error, "the pool is not open"),
        }
    }
    Ok(())
}

/// A file or a tree; gone already is fine.
fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
