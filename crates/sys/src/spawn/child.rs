//! What a child does between its creation and `execve`.
//!
//! It runs on its parent's memory while the parent's thread stands still (`CLONE_VM | CLONE_VFORK`, clone(2)), which
//! spares the copy of the page tables: the dearest part of a fork. So it makes plain system calls on memory its parent
//! prepared, never allocates, and changes nothing but its `errno`. Calls that a C library would carry
//! out in all threads of the parent (setresuid and its like, nptl(7)) are made directly.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};

use super::Setup;

/// Enough for a few shallow frames.
const STACK_BYTES: usize = 64 * 1024;
/// Exit code of a child that never became another program; nobody sees it.
const NEVER_BECAME: c_int = 127;
/// The kernel's `struct sigaction` for `SIG_DFL`: all zeros on every architecture.
const DEFAULT_ACTION: [u64; 4] = [0; 4];
/// The standard signals. Nobody ignores the other 33 without meaning it, and each costs a system call (signal(7)).
const SIGNALS: std::ops::RangeInclusive<c_int> = 1..=31;
/// The kernel's signal sets have 64 bits.
const SIGNAL_SET_BYTES: usize = 8;

/// Everything the child needs, with every pointer made beforehand.
pub(super) struct Child<'a> {
    setup: &'a Setup,
    /// What becomes descriptor 0, 1 and 2; none of them is one of those numbers itself.
    streams: [Option<RawFd>; 3],
    cwd: Option<&'a CString>,
    programs: &'a [CString],
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// Why it did not become another program; 0 while it may.
    errno: c_int,
}

impl<'a> Child<'a> {
    pub(super) fn new(
        setup: &'a Setup,
        streams: [Option<RawFd>; 3],
        cwd: Option<&'a CString>,
        programs: &'a [CString],
        (args, env): (&'a [CString], &'a [CString]),
    ) -> Self {
        Self { setup, streams, cwd, programs, argv: pointers(args), envp: pointers(env), errno: 0 }
    }

    /// Creates the child and returns when it has become another program, with its pid and pidfd.
    pub(super) fn create(mut self) -> io::Result<(Pid, OwnedFd)> {
        let mut stack = Vec::<u128>::with_capacity(STACK_BYTES / size_of::<u128>());
        let mut pidfd: RawFd = -1;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        let blocked = AllSignals::block()?;
        // SAFETY: the stack is aligned, unused and lives until the child has left it, which CLONE_VFORK waits for; so
        // does `self`. No handler of ours runs in the child: every signal is blocked until it has none left.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(stack.capacity());
            libc::clone(run, top.cast(), flags, (&raw mut self).cast(), &raw mut pidfd)
        };
        let Some(pid) = Pid::from_raw(pid.max(0)) else { return Err(io::Error::last_os_error()) };
        drop(blocked);
        // SAFETY: the kernel stored a new descriptor there (CLONE_PIDFD).
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        // SAFETY: a plain read of what the child may have written before it ended.
        match unsafe { (&raw const self.errno).read_volatile() } {
            0 => Ok((pid, pidfd)),
            errno => {
                reap(pid);
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }

    /// Runs in the child; returns only when something failed.
    unsafe fn become_program(&self) -> io::Error {
        // SAFETY: system calls on memory prepared by the parent.
        let result = unsafe { self.streams().and_then(|()| self.setup.apply()).and_then(|()| self.enter()) };
        match result {
            // SAFETY: both arrays end with a null pointer, every string lives in the parent.
            Ok(()) => unsafe { self.exec() },
            Err(error) => error,
        }
    }

    unsafe fn streams(&self) -> io::Result<()> {
        for (number, fd) in (0..).zip(self.streams) {
            if let Some(fd) = fd {
                // SAFETY: plain system call.
                check(unsafe { libc::dup2(fd, number) })?;
            }
        }
        Ok(())
    }

    unsafe fn enter(&self) -> io::Result<()> {
        match self.cwd {
            // SAFETY: a NUL-terminated string.
            Some(dir) => check(unsafe { libc::chdir(dir.as_ptr()) }),
            None => Ok(()),
        }
    }

    /// The first candidate there is; one that may not be run counts only when no other can (execvp(3)).
    unsafe fn exec(&self) -> io::Error {
        let mut refused = None;
        let mut last = io::Error::from_raw_os_error(libc::ENOENT);
        for program in self.programs {
            // SAFETY: see `become_program`.
            unsafe { libc::execve(program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
            last = io::Error::last_os_error();
            match last.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => refused = Some(libc::EACCES),
                _ => return last,
            }
        }
        refused.map_or(last, io::Error::from_raw_os_error)
    }
}

extern "C" fn run(child: *mut c_void) -> c_int {
    // SAFETY: `create` passes a `Child` that outlives this process's use of it.
    unsafe {
        let child = child.cast::<Child<'_>>();
        let error = (*child).become_program();
        (&raw mut (*child).errno).write_volatile(error.raw_os_error().unwrap_or(libc::EIO));
        libc::_exit(NEVER_BECAME)
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// It has ended, or is about to.
fn reap(pid: Pid) {
    while matches!(rustix::process::waitpid(Some(pid), WaitOptions::empty()), Err(Errno::INTR)) {}
}

/// No signal reaches this thread, nor a child it creates, while this lives.
struct AllSignals(libc::sigset_t);

impl AllSignals {
    fn block() -> io::Result<Self> {
        let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `all` is written before it is read, and `before` by a call that succeeded.
        unsafe {
            check(libc::sigfillset(all.as_mut_ptr()))?;
            match libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) {
                0 => Ok(Self(before.assume_init())),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

impl Drop for AllSignals {
    fn drop(&mut self) {
        // SAFETY: the mask the thread had. It cannot fail: the set is valid.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

impl Setup {
    /// Order matters: groups and scores need root, which the credentials give up.
    unsafe fn apply(&self) -> io::Result<()> {
        // SAFETY: plain system calls with valid arguments; every pointer refers to memory owned by `self`.
        unsafe {
            reset_signals()?;
            if self.new_session {
                check(libc::setsid())?;
            }
            if self.controlling_terminal {
                check(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
            }
            for file in &self.cgroup_procs {
                // "0" means the writing process (cgroups(7)).
                check(libc::write(file.as_raw_fd(), b"0".as_ptr().cast(), 1) as i32)?;
            }
            // Before the namespaces: there may be no /proc in them.
            if let Some(adj) = &self.oom_score_adj {
                write_oom_score_adj(adj);
            }
            for namespace in &self.namespaces {
                check(libc::setns(namespace.as_raw_fd(), 0))?;
            }
            if let Some(nice) = self.nice {
                check(libc::setpriority(libc::PRIO_PROCESS, 0, nice))?;
            }
            for &(resource, soft, hard) in &self.limits {
                let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
                check(libc::setrlimit(resource as _, &limit))?;
            }
            for fd in &self.keep {
                clear_close_on_exec(fd.as_raw_fd())?;
            }
            if let Some(credentials) = &self.credentials {
                let (uid, gid, groups) = (credentials.uid, credentials.gid, &credentials.groups);
                checked(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
                checked(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
                checked(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
            }
            // After the credentials: changing them clears it (PR_SET_PDEATHSIG(2const)).
            if let Some(signal) = self.death_signal {
                check(libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong))?;
            }
            if self.no_new_privileges {
                check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            }
        }
        Ok(())
    }
}

/// The child starts with no signal ignored and none blocked: Rust programs ignore `SIGPIPE`, and whoever runs in
/// the background of a script ignores `SIGINT`, which would make Ctrl-C in a terminal do nothing.
unsafe fn reset_signals() -> io::Result<()> {
    // SAFETY: `set` is written by sigemptyset before it is read; handlers go before signals may come.
    unsafe {
        for signal in SIGNALS {
            // KILL and STOP refuse, which is as well.
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT_ACTION.as_ptr(),
                std::ptr::null::<u64>(),
                SIGNAL_SET_BYTES,
            );
        }
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        check(libc::sigemptyset(set.as_mut_ptr()))?;
        check(libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut()))
    }
}

/// Best effort: lowering the score needs `CAP_SYS_RESOURCE`.
unsafe fn write_oom_score_adj(adj: &CString) {
    // SAFETY: both pointers are to NUL-terminated constants or owned strings.
    unsafe {
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::write(fd, adj.as_ptr().cast(), adj.as_bytes().len());
            libc::close(fd);
        }
    }
}

unsafe fn clear_close_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: fcntl on a descriptor the caller owns.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFD);
        check(flags)?;
        check(libc::fcntl(fd, libc::F_SETFD, flags & !libc::FD_CLOEXEC))
    }
}

fn check(result: c_int) -> io::Result<()> {
    checked(result.into())
}

fn checked(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
