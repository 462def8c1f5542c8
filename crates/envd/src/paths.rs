//! What a path in a request means.

use std::path::{Component, Path, PathBuf};

/// A path the daemon does not understand.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathError {
    /// `~name`.
    #[error("the home directory of another user is not supported: '{0}'")]
    OtherHome(String),
    /// No file system has such names.
    #[error("a path must not contain a NUL byte")]
    Nul,
}

/// Empty means `workdir` if there is one, else `home`; `~` and relative paths start at `home`; absolute paths are
/// taken as they are, `..` included.
pub fn resolve(path: &str, home: &Path, workdir: Option<&Path>) -> Result<PathBuf, PathError> {
    if path.contains('\0') {
        return Err(PathError::Nul);
    }
    if path.is_empty() {
        return Ok(workdir.unwrap_or(home).to_owned());
    }
    if let Some(rest) = path.strip_prefix('~') {
        return match rest.strip_prefix('/') {
            Some(rest) => Ok(clean(&home.join(rest.trim_start_matches('/')))),
            None if rest.is_empty() => Ok(home.to_owned()),
            None => Err(PathError::OtherHome(path.to_owned())),
        };
    }
    if path.starts_with('/') {
        return Ok(PathBuf::from(path));
    }
    Ok(clean(&home.join(path)))
}

/// Removes `.` and resolves `..` by text, without asking the file system.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let home = Path::new("/home/u");
        let workdir = Path::new("/work");
        for (path, expected) in [
            ("", "/work"),
            ("~", "/home/u"),
            ("~/a/../b", "/home/u/b"),
            ("~//a", "/home/u/a"),
            ("a", "/home/u/a"),
            ("./a/./b", "/home/u/a/b"),
            ("../../../a", "/a"),
            ("/x/../y", "/x/../y"),
        ] {
            assert_eq!(resolve(path, home, Some(workdir)), Ok(PathBuf::from(expected)), "{path}");
        }
        assert_eq!(resolve("", home, None), Ok(home.to_owned()));
        assert_eq!(resolve("~bob/x", home, None), Err(PathError::OtherHome("~bob/x".into())));
        assert_eq!(resolve("a\0b", home, None), Err(PathError::Nul));
    }
}
