//! Metadata of a file: extended attributes under `user.e2b.` (xattr(7)).

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr};
use rustix::io::{Errno, Result};

const PREFIX: &str = "user.e2b.";
/// The kernel's largest list of names, and largest value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const KERNEL_MAX: usize = 64 * 1024;

/// Keys without the prefix; empty where the file system has no such attributes.
pub fn read(path: &Path) -> BTreeMap<String, String> {
    let names = listed(|buffer| listxattr(path, buffer)).unwrap_or_default();
    let value = |name: &str| sized(|buffer| getxattr(path, name, buffer)).ok();
    names
        .iter()
        .filter_map(|name| {
            let value = value(name)?;
            Some((name.strip_prefix(PREFIX)?.to_owned(), String::from_utf8_lossy(&value).into_owned()))
        })
        .collect()
}

/// Makes the metadata of an open file exactly this. A file system without attributes is an error only when there is
/// something to store.
pub fn replace(file: impl AsFd, metadata: &BTreeMap<String, String>) -> Result<()> {
    let file = file.as_fd();
    let names = listed(|buffer| flistxattr(file, buffer)).unwrap_or_default();
    for name in names {
        if name.strip_prefix(PREFIX).is_some_and(|key| !metadata.contains_key(key)) {
            fremovexattr(file, name.as_str())?;
        }
    }
    for (key, value) in metadata {
        let name = format!("{PREFIX}{key}");
        let present = sized(|buffer| fgetxattr(file, name.as_str(), buffer));
        if present.is_ok_and(|present| present == value.as_bytes()) {
            continue;
        }
        fsetxattr(file, name.as_str(), value.as_bytes(), XattrFlags::empty())?;
    }
    Ok(())
}

fn listed(call: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<String>> {
    let list = sized(call)?;
    let names = list.split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    Ok(names.filter(|name| name.starts_with(PREFIX)).map(str::to_owned).collect())
}

/// A small buffer first, the kernel's largest next.
fn sized(call: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    for capacity in [512, KERNEL_MAX] {
        let mut buffer = vec![0; capacity];
        match call(&mut buffer) {
            Err(Errno::RANGE) => {}
            result => {
                buffer.truncate(result?);
                return Ok(buffer);
            }
        }
    }
    Err(Errno::RANGE)
}
