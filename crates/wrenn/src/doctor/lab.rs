//! Places of their own in which tests break what the checks look at. They need root.

use super::programs::run;
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use std::ffi::CString;
use std::path::Path;

/// Runs a test on a thread whose host has no network but what the test makes.
pub fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
}

/// Runs a test on a thread that alone sees a file system in memory, with these options of tmpfs(5).
pub fn with_tmpfs(options: &str, test: impl FnOnce(&Path) + Send) {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let options = CString::new(options).unwrap();
        mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
        test(dir.path());
        rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    });
}

fn on_a_thread(test: impl FnOnce() + Send) {
    let ended = std::thread::scope(|scope| scope.spawn(test).join());
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// What a script prints.
pub fn sh(script: &str) -> String {
    run("sh", &["-c", script]).unwrap_or_else(|error| panic!("{script}: {error}"))
}
