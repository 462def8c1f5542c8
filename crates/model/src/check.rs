//! Rules for names and numbers that come from users.

use crate::error::{Code, Error};
use crate::limits;
use std::collections::BTreeMap;

/// A name of a template, snapshot or channel: `[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}`.
#[must_use]
pub fn is_safe_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 64
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The vCPUs to use for a request; 0 and absent mean the default.
pub fn vcpus(asked: Option<i64>) -> Result<u32, Error> {
    sized("vcpus", asked, limits::VCPUS_DEFAULT, 1, limits::VCPUS_MAX)
}

/// How many clones a fork makes; absent means one.
pub fn fork_count(asked: Option<i64>) -> Result<u32, Error> {
    let count = u32::try_from(asked.unwrap_or(1)).unwrap_or(0);
    if (1..=limits::FORK_COUNT_MAX).contains(&count) {
        return Ok(count);
    }
    Err(out_of_range("count", 1, limits::FORK_COUNT_MAX))
}

/// The memory to use for a request, rounded up to a size class.
pub fn memory_mb(asked: Option<i64>) -> Result<u32, Error> {
    let mb = sized("memory_mb", asked, limits::MEMORY_MB_DEFAULT, limits::MEMORY_MB_MIN, limits::MEMORY_MB_MAX)?;
    Ok(mb.next_multiple_of(limits::MEMORY_MB_STEP))
}

/// The root disk to use for a request; what its template has at least is not known here.
pub fn disk_size_mb(asked: i64) -> Result<u32, Error> {
    sized("disk_size_mb", Some(asked), limits::DISK_MB_DEFAULT, 1, limits::DISK_MB_MAX)
}

/// The inactivity time to use for a request: 0 = never, 1–59 are raised to 60.
pub fn idle_s(asked: Option<i64>) -> Result<u32, Error> {
    match asked.unwrap_or(0) {
        0 => Ok(0),
        s => sized("timeout_sec", Some(s), 0, 1, limits::LIFETIME_S_MAX).map(|s| s.max(limits::IDLE_S_MIN)),
    }
}

/// An E2B timeout in seconds, 0 included.
pub fn e2b_timeout_s(asked: i64) -> Result<u32, Error> {
    u32::try_from(asked)
        .ok()
        .filter(|s| *s <= limits::LIFETIME_S_MAX)
        .ok_or_else(|| out_of_range("timeout", 0, limits::LIFETIME_S_MAX))
}

/// The time limit of a foreground exec; 0 and absent mean the default.
pub fn exec_timeout_s(asked: Option<i64>) -> Result<u32, Error> {
    sized("timeout_sec", asked, limits::EXEC_TIMEOUT_S_DEFAULT, 1, limits::EXEC_TIMEOUT_S_MAX)
}

/// Labels a user puts on a capsule.
pub fn metadata(map: &BTreeMap<String, String>) -> Result<(), Error> {
    let long = |text: &String| text.len() > limits::METADATA_BYTES_MAX;
    if map.len() > limits::METADATA_KEYS_MAX || map.iter().any(|(k, v)| k.is_empty() || long(k) || long(v)) {
        return Err(Error::new(
            Code::InvalidRequest,
            format!(
                "metadata: at most {} entries of at most {} bytes each",
                limits::METADATA_KEYS_MAX,
                limits::METADATA_BYTES_MAX
            ),
        ));
    }
    Ok(())
}

/// Environment variables: names that a shell could hold, values without NUL.
pub fn envs(map: &BTreeMap<String, String>) -> Result<(), Error> {
    if map.len() > limits::ENVS_MAX {
        return Err(Error::new(Code::InvalidRequest, format!("at most {} environment variables", limits::ENVS_MAX)));
    }
    match map.iter().find(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0')) {
        Some((key, _)) => Err(Error::new(Code::InvalidRequest, format!("environment variable {key:?} is not valid"))),
        None => Ok(()),
    }
}

fn sized(field: &str, asked: Option<i64>, default: u32, min: u32, max: u32) -> Result<u32, Error> {
    match asked {
        None | Some(0) => Ok(default),
        Some(n) => {
            u32::try_from(n).ok().filter(|n| (min..=max).contains(n)).ok_or_else(|| out_of_range(field, min, max))
        }
    }
}

fn out_of_range(field: &str, min: u32, max: u32) -> Error {
    Error::new(Code::InvalidRequest, format!("{field} must be from {min} to {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, ok) in [("a", true), ("A.b_c-1", true), ("", false), ("-a", false), ("a/b", false), ("ä", false)] {
            assert_eq!(is_safe_name(name), ok, "{name}");
        }
        assert!(is_safe_name(&"a".repeat(64)) && !is_safe_name(&"a".repeat(65)));
    }

    #[test]
    fn numbers() {
        assert_eq!(vcpus(None).ok(), Some(1));
        assert_eq!(vcpus(Some(33)).ok(), None);
        assert_eq!(memory_mb(Some(129)).ok(), Some(130));
        assert_eq!(memory_mb(Some(-1)).ok(), None);
        assert_eq!(idle_s(Some(5)).ok(), Some(60));
        assert_eq!(idle_s(None).ok(), Some(0));
        assert_eq!(idle_s(Some(-5)).ok(), None);
        assert_eq!(e2b_timeout_s(0).ok(), Some(0));
    }
}
