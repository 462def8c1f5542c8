//! A directory of `.deb` files as an apt repository, without tools that are not everywhere installed.

use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sha2::{Digest as _, Sha256};

use crate::{Error, files, tool};

/// The packages directly in `dir`, sorted.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = files::list(dir)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    if paths.is_empty() {
        return Err(Error::NoPackages { dir: dir.to_owned() });
    }
    Ok(paths)
}

/// Writes an index of `dir` to `repository` (the packages stay where they are) and returns the deb822 source.
///
/// The packages are trusted as they are: the operator put them there.
pub fn repository(dir: &Path, suite: &str, repository: &Path) -> Result<String, Error> {
    files::create_dir(repository)?;
    let dir = dir.canonicalize().map_err(Error::io("resolve", dir))?;
    let link = repository.join("packages");
    symlink(&dir, &link).map_err(Error::io("link", &link))?;
    let mut index = String::new();
    for path in list(&dir)? {
        index += &stanza(&path)?;
    }
    files::write(&repository.join("Packages"), index)?;
    // mmdebstrap selects the base packages of a release by this name.
    files::write(&repository.join("Release"), format!("Codename: {suite}\n"))?;
    let base = std::path::absolute(repository).map_err(Error::io("resolve", repository))?;
    // copy: and not file:, because the guest's root does not see the host's directories.
    Ok(format!("Types: deb\nURIs: copy:{}\nSuites: ./\nTrusted: yes\n", base.display()))
}

/// The package's control fields with what apt needs to fetch and verify it.
fn stanza(path: &Path) -> Result<String, Error> {
    let output = tool::DPKG_DEB.command().arg("--field").arg(path).stdin(Stdio::null()).output();
    let output = output.map_err(Error::io("inspect", path))?;
    if !output.status.success() {
        let tail = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Tool { tool: "dpkg-deb", status: output.status, tail });
    }
    let bytes = files::read(path)?;
    let (size, digest) = (bytes.len(), hex::encode(Sha256::digest(&bytes)));
    let mut text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    // Writing to a String cannot fail.
    let _ = write!(text, "\nFilename: packages/{}\nSize: {size}\nSHA256: {digest}\n\n", files::name(path));
    Ok(text)
}
