//! How many descriptors a process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The kernel's own bound (`fs.nr_open`, `proc_sys_fs(5)`).
const MOST: u64 = 1 << 20;

/// Raises this process's bound as far as it may, and answers the soft and hard bound for its children: the soft one
/// as it was, because programs that use `select(2)` or close every possible descriptor suffer from a high one.
pub fn raise_limit() -> (u64, u64) {
    let before = getrlimit(Resource::Nofile);
    let (soft, hard) = (before.current.unwrap_or(MOST), before.maximum.unwrap_or(MOST));
    for raised in [hard.max(MOST), hard] {
        // Only root may raise a hard limit.
        if setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: Some(raised) }).is_ok() {
            return (soft, raised);
        }
    }
    (soft, hard)
}
