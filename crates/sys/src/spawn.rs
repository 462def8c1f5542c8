//! Starting processes: the one place of the workspace that forks.
//!
//! Everything between `fork` and `exec` is a plain system call on memory prepared before the fork: another
//! thread may hold the allocator's lock at that moment (signal-safety(7)).

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};

/// Who a child runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups; replaces the parent's.
    pub groups: Vec<u32>,
}

/// Where one of the three standard streams goes.
#[derive(Debug)]
pub enum Stream {
    /// `/dev/null`.
    Null,
    /// The parent's.
    Inherit,
    /// A pipe to the parent.
    Pipe,
    /// This descriptor.
    Fd(OwnedFd),
}

impl From<Stream> for Stdio {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Null => Stdio::null(),
            Stream::Inherit => Stdio::inherit(),
            Stream::Pipe => Stdio::piped(),
            Stream::Fd(fd) => Stdio::from(fd),
        }
    }
}

/// A process to be started. Nothing of the parent's environment is inherited unless asked for.
#[derive(Debug)]
pub struct Spawn {
    program: PathBuf,
    argv0: Option<OsString>,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    inherit_env: bool,
    cwd: Option<PathBuf>,
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
    setup: Setup,
}

/// What the child does to itself between `fork` and `exec`, in the order of the fields' use in `apply`.
#[derive(Debug, Default)]
struct Setup {
    new_session: bool,
    controlling_terminal: bool,
    death_signal: Option<i32>,
    namespaces: Vec<OwnedFd>,
    cgroup_procs: Vec<OwnedFd>,
    oom_score_adj: Option<CString>,
    nice: Option<i32>,
    limits: Vec<(u32, u64, u64)>,
    credentials: Option<Credentials>,
    no_new_privileges: bool,
    keep: Vec<OwnedFd>,
}

impl Spawn {
    /// A process running `program`, found in `PATH` when it has no slash, with null streams and an empty environment.
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            argv0: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            inherit_env: false,
            cwd: None,
            stdin: Stream::Null,
            stdout: Stream::Null,
            stderr: Stream::Null,
            setup: Setup::default(),
        }
    }

    /// Name the process sees as its own; the program's path otherwise.
    pub fn argv0(mut self, name: impl AsRef<OsStr>) -> Self {
        self.argv0 = Some(name.as_ref().to_owned());
        self
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// One environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(key.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Start from the parent's environment instead of an empty one.
    pub fn inherit_env(mut self) -> Self {
        self.inherit_env = true;
        self
    }

    /// Working directory; the parent's otherwise. Entered after the credentials are set.
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.cwd = Some(dir.as_ref().to_owned());
        self
    }

    /// Standard input.
    pub fn stdin(mut self, stream: Stream) -> Self {
        self.stdin = stream;
        self
    }

    /// Standard output.
    pub fn stdout(mut self, stream: Stream) -> Self {
        self.stdout = stream;
        self
    }

    /// Standard error.
    pub fn stderr(mut self, stream: Stream) -> Self {
        self.stderr = stream;
        self
    }

    /// Leader of a session of its own: signals to the parent's group do not reach it.
    pub fn new_session(mut self) -> Self {
        self.setup.new_session = true;
        self
    }

    /// Makes standard input the controlling terminal; implies [`Self::new_session`].
    pub fn controlling_terminal(mut self) -> Self {
        self.setup.new_session = true;
        self.setup.controlling_terminal = true;
        self
    }

    /// Signal the child gets when the *thread* that started it ends (prctl(2), `PR_SET_PDEATHSIG`).
    pub fn death_signal(mut self, signal: i32) -> Self {
        self.setup.death_signal = Some(signal);
        self
    }

    /// Namespaces to enter, as descriptors of `/proc/PID/ns/*` or bind mounts of them.
    pub fn enter_namespace(mut self, namespace: OwnedFd) -> Self {
        self.setup.namespaces.push(namespace);
        self
    }

    /// Group to join: a `cgroup.procs` (v2) or `tasks`/`cgroup.procs` (v1) file open for writing.
    pub fn join_cgroup(mut self, procs: OwnedFd) -> Self {
        self.setup.cgroup_procs.push(procs);
        self
    }

    /// `oom_score_adj`, -1000 to 1000. Not being allowed to lower it is not an error.
    pub fn oom_score_adj(mut self, adj: i32) -> Self {
        self.setup.oom_score_adj = CString::new(adj.to_string()).ok();
        self
    }

    /// Absolute nice value, -20 to 19.
    pub fn nice(mut self, nice: i32) -> Self {
        self.setup.nice = Some(nice);
        self
    }

    /// A resource limit: `RLIMIT_*`, soft, hard.
    pub fn limit(mut self, resource: u32, soft: u64, hard: u64) -> Self {
        self.setup.limits.push((resource, soft, hard));
        self
    }

    /// User and groups; the parent's otherwise.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.setup.credentials = Some(credentials);
        self
    }

    /// Set-user-id programs give the child nothing (prctl(2), `PR_SET_NO_NEW_PRIVS`).
    pub fn no_new_privileges(mut self) -> Self {
        self.setup.no_new_privileges = true;
        self
    }

    /// A descriptor the child keeps, under the same number.
    pub fn keep_fd(mut self, fd: OwnedFd) -> Self {
        self.setup.keep.push(fd);
        self
    }

    /// Starts it. An `exec` that fails (missing program, not executable, …) is reported here with the kernel's error.
    pub fn spawn(self) -> io::Result<Process> {
        let mut command = Command::new(&self.program);
        if let Some(argv0) = &self.argv0 {
            command.arg0(argv0);
        }
        command.args(&self.args);
        if !self.inherit_env {
            command.env_clear();
        }
        command.envs(&self.env);
        command.stdin(self.stdin).stdout(self.stdout).stderr(self.stderr);
        let cwd = self.cwd.map(|dir| CString::new(dir.as_os_str().as_bytes())).transpose()?;
        let setup = self.setup;
        // SAFETY: the closure makes system calls only, on memory that was allocated before the fork.
        unsafe {
            command.pre_exec(move || {
                setup.apply()?;
                if let Some(dir) = &cwd {
                    check(libc::chdir(dir.as_ptr()))?;
                }
                Ok(())
            });
        }
        let child = command.spawn()?;
        // The closure, and with it the descriptors it owned, goes with `command`.
        drop(command);
        Ok(Process(child))
    }

    /// Runs it to its end with both outputs collected. For short-lived tools whose output is trusted to be small.
    pub fn output(self) -> io::Result<Output> {
        let mut process = self.stdout(Stream::Pipe).stderr(Stream::Pipe).spawn()?;
        drop(process.0.stdin.take());
        let output = process.0.wait_with_output()?;
        Ok(Output { exit: Exit::of(output.status), stdout: output.stdout, stderr: output.stderr })
    }
}

impl Setup {
    /// Runs in the child. Order matters: groups and scores need root, which the credentials give up.
    fn apply(&self) -> io::Result<()> {
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
            for namespace in &self.namespaces {
                check(libc::setns(namespace.as_raw_fd(), 0))?;
            }
            if let Some(adj) = &self.oom_score_adj {
                write_oom_score_adj(adj);
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
                let groups = &credentials.groups;
                check(libc::setgroups(groups.len(), groups.as_ptr()))?;
                check(libc::setresgid(credentials.gid, credentials.gid, credentials.gid))?;
                check(libc::setresuid(credentials.uid, credentials.uid, credentials.uid))?;
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

/// The child starts with no signal blocked and none ignored: Rust programs ignore `SIGPIPE`, and whoever runs in
/// the background of a script ignores `SIGINT`, which would make Ctrl-C in a terminal do nothing.
unsafe fn reset_signals() -> io::Result<()> {
    // SAFETY: `set` is written by sigemptyset before it is read.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        check(libc::sigemptyset(set.as_mut_ptr()))?;
        check(libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut()))?;
        // KILL and STOP refuse, which is as well.
        for signal in 1..=31 {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    Ok(())
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

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// What a wait reported.
    pub fn of(status: std::process::ExitStatus) -> Self {
        match status.signal() {
            Some(signal) => Self::Signal(signal),
            None => Self::Code(status.code().unwrap_or(-1)),
        }
    }

    /// Exit code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

/// End and output of a process run by [`Spawn::output`].
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// Everything it wrote to standard output.
    pub stdout: Vec<u8>,
    /// Everything it wrote to standard error.
    pub stderr: Vec<u8>,
}

/// A started child. Dropping it neither ends nor reaps it.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Our end of its standard input, once, when that is a pipe.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.0.stdin.take()
    }

    /// Our end of its standard output, once, when that is a pipe.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.0.stdout.take()
    }

    /// Our end of its standard error, once, when that is a pipe.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.0.stderr.take()
    }

    /// Waits for its end and reaps it. Blocks.
    pub fn wait(&mut self) -> io::Result<Exit> {
        self.0.wait().map(Exit::of)
    }

    /// Its end, if it has ended; reaps it then.
    pub fn try_wait(&mut self) -> io::Result<Option<Exit>> {
        Ok(self.0.try_wait()?.map(Exit::of))
    }

    /// Sends `SIGKILL`.
    pub fn kill(&mut self) -> io::Result<()> {
        self.0.kill()
    }

    /// A descriptor that becomes readable when the process ends (pidfd_open(2)).
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        let pid = rustix::process::Pid::from_raw(self.0.id() as i32)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap_or_default().trim()
    }

    #[test]
    fn child_sees_only_what_was_asked_for() -> io::Result<()> {
        let output = Spawn::new("/bin/sh")
            .args(["-c", "echo $0 $A; env | wc -l; pwd"])
            .argv0("name")
            .env("A", "1")
            .cwd("/")
            .output()?;
        assert!(output.exit.success());
        let lines: Vec<_> = text(&output.stdout).lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "name 1");
        assert_eq!(lines[2], "/");
        Ok(())
    }

    #[test]
    fn credentials_replace_all_groups() -> io::Result<()> {
        let credentials = Credentials { uid: 1234, gid: 1235, groups: vec![1236] };
        let output = Spawn::new("/usr/bin/id").credentials(credentials).no_new_privileges().output()?;
        assert_eq!(text(&output.stdout), "uid=1234 gid=1235 groups=1235,1236");
        Ok(())
    }

    #[test]
    fn exec_failure_is_the_kernels_error() {
        let missing = Spawn::new("/no/such/program").spawn().err().and_then(|e| e.raw_os_error());
        assert_eq!(missing, Some(libc::ENOENT));
        let directory = Spawn::new("/etc").spawn().err().and_then(|e| e.raw_os_error());
        assert_eq!(directory, Some(libc::EACCES));
    }

    #[test]
    fn ends_are_told_apart() -> io::Result<()> {
        for (script, end) in [("exit 42", Exit::Code(42)), ("kill -9 $$", Exit::Signal(9))] {
            assert_eq!(Spawn::new("/bin/sh").args(["-c", script]).spawn()?.wait()?, end);
        }
        Ok(())
    }
}
