//! Why the guest's files could not be made, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Failure of [`crate::prepare`] or [`crate::build_disk`]. The text names the remedy where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool is not installed.
    #[error("{tool} is missing: apt-get install {package}")]
    MissingTool {
        /// Program name.
        tool: &'static str,
        /// Debian and Ubuntu package that has it.
        package: &'static str,
    },
    /// Device nodes and foreign owners in a root file system need root.
    #[error("preparing guest images needs root: run this command with sudo")]
    NotRoot,
    /// A tool ended with an error.
    #[error("{tool} failed ({status}):\n{tail}")]
    Tool {
        /// Program name.
        tool: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Its last lines of output.
        tail: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// Verb.
        action: &'static str,
        /// Object.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The kernel image has an unknown shape.
    #[error("kernel image {}: {reason}", path.display())]
    KernelImage {
        /// The bzImage.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The package source offers no guest kernel.
    #[error(
        "no {package} package found: check the Debian mirrors of this host, or put the package into $WRENN_ARTIFACTS"
    )]
    NoKernelPackage {
        /// Wanted package.
        package: &'static str,
    },
    /// A kernel module the guest boots with is neither built in nor in the package.
    #[error("kernel {release} has no module {module}: use another linux-image package")]
    MissingModule {
        /// Kernel release.
        release: String,
        /// Module name.
        module: String,
    },
    /// The local package directory has no packages.
    #[error("{} holds no .deb files: fill it from a host with network (its pool/artifacts/packages directory)", dir.display())]
    NoPackages {
        /// `$WRENN_ARTIFACTS`.
        dir: PathBuf,
    },
    /// The init binary cannot run in an initramfs.
    #[error("{} cannot be the guest's init: {reason}; build it with `cargo xtask guest`", path.display())]
    Envd {
        /// The binary.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A worker thread ended without a result.
    #[error("a worker thread panicked while preparing guest images; this is a defect, please report it")]
    Panicked,
}

impl Error {
    /// `map_err` adapter: `fs::read(p).map_err(Error::io("read", p))`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
