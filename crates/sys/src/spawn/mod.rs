//! Starting processes: the one place of the workspace that creates them.

mod child;
mod process;

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read as _};
use std::iter;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub use process::{Exit, Output, Process};

use child::Child;
use process::Pipes;

/// Where programs are looked for by a child that has no `PATH` (`execvp(3)`).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

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

/// What the child does to itself before `execve`, in the order of the fields' use in `apply`.
#[derive(Debug, Default)]
struct Setup {
    new_session: bool,
    controlling_terminal: bool,
    death_signal: Option<i32>,
    cgroup_procs: Vec<OwnedFd>,
    oom_score_adj: Option<CString>,
    namespaces: Vec<OwnedFd>,
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

    /// One more namespace to enter, as a descriptor of `/proc/PID/ns/*` or a bind mount of it. With one of mounts comes its root
    /// (setns(2)).
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
        let env = self.environment();
        let programs = candidates(&self.program, env.get(OsStr::new("PATH")))?;
        let argv0 = self.argv0.as_deref().unwrap_or(self.program.as_os_str());
        let args = iter::once(argv0).chain(self.args.iter().map(OsString::as_os_str)).map(c_string);
        let args: Vec<_> = args.collect::<io::Result<_>>()?;
        let env: Vec<_> = env.iter().map(|(key, value)| variable(key, value)).collect::<io::Result<_>>()?;
        let cwd = self.cwd.as_deref().map(|dir| c_string(dir.as_os_str())).transpose()?;

        let (stdin, our_stdin) = self.stdin.input()?;
        let (stdout, our_stdout) = self.stdout.output()?;
        let (stderr, our_stderr) = self.stderr.output()?;
        let streams = [&stdin, &stdout, &stderr].map(|end| end.as_ref().map(AsRawFd::as_raw_fd));
        let child = Child::new(&self.setup, streams, cwd.as_ref(), &programs, (&args, &env));
        let (pid, pidfd) = child.create()?;
        Ok(Process::new(pid, pidfd, Pipes { stdin: our_stdin, stdout: our_stdout, stderr: our_stderr }))
    }

    fn environment(&self) -> BTreeMap<OsString, OsString> {
        let mut env: BTreeMap<_, _> = if self.inherit_env { std::env::vars_os().collect() } else { BTreeMap::new() };
        env.extend(self.env.iter().map(|(key, value)| (key.clone(), value.clone())));
        env
    }

    /// Runs it to its end with both outputs collected. For short-lived tools whose output is trusted to be small.
    pub fn output(self) -> io::Result<Output> {
        let mut process = self.stdout(Stream::Pipe).stderr(Stream::Pipe).spawn()?;
        drop(process.take_stdin());
        let (stdout, stderr) = (process.take_stdout(), process.take_stderr());
        let (stdout, stderr) = std::thread::scope(|scope| {
            let stderr = match std::thread::Builder::new().spawn_scoped(scope, || read_all(stderr)) {
                Ok(reader) => reader,
                // Both pipes are closed by then: the process ends, or is told that nobody reads.
                Err(error) => return (Ok(Vec::new()), Err(error)),
            };
            let stdout = read_all(stdout);
            (stdout, stderr.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
        });
        Ok(Output { exit: process.wait()?, stdout: stdout?, stderr: stderr? })
    }
}

impl Stream {
    /// The child's end, and ours where there is one.
    fn input(self) -> io::Result<(Option<OwnedFd>, Option<PipeWriter>)> {
        if let Self::Pipe = self {
            let (theirs, ours) = io::pipe()?;
            return Ok((Some(above_standard(theirs.into())?), Some(ours)));
        }
        Ok((self.end(File::options().read(true))?, None))
    }

    fn output(self) -> io::Result<(Option<OwnedFd>, Option<PipeReader>)> {
        if let Self::Pipe = self {
            let (ours, theirs) = io::pipe()?;
            return Ok((Some(above_standard(theirs.into())?), Some(ours)));
        }
        Ok((self.end(File::options().write(true))?, None))
    }

    fn end(self, null: &OpenOptions) -> io::Result<Option<OwnedFd>> {
        let end = match self {
            Self::Inherit | Self::Pipe => return Ok(None),
            Self::Null => null.open("/dev/null")?.into(),
            Self::Fd(fd) => fd,
        };
        above_standard(end).map(Some)
    }
}

/// A descriptor that is none of the three the child's streams are put on, one after the other.
fn above_standard(fd: OwnedFd) -> io::Result<OwnedFd> {
    match fd.as_raw_fd() {
        0..=2 => Ok(rustix::io::fcntl_dupfd_cloexec(&fd, 3)?),
        _ => Ok(fd),
    }
}

/// Where a program may be: itself, or, without a slash in it, every directory of the child's `PATH` (`execvp(3)`).
fn candidates(program: &Path, path: Option<&OsString>) -> io::Result<Vec<CString>> {
    if program.as_os_str().as_bytes().contains(&b'/') || program.as_os_str().is_empty() {
        return Ok(vec![c_string(program.as_os_str())?]);
    }
    let path = path.map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
    std::env::split_paths(path).map(|directory| c_string(directory.join(program).as_os_str())).collect()
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

fn variable(key: &OsStr, value: &OsStr) -> io::Result<CString> {
    Ok(CString::new([key.as_bytes(), b"=", value.as_bytes()].concat())?)
}

fn read_all(pipe: Option<PipeReader>) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut all)?;
    }
    Ok(all)
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

    #[test]
    fn programs_are_found_in_the_childs_path() -> io::Result<()> {
        let output = Spawn::new("sh").args(["-c", "exit 3"]).env("PATH", "/no/such:/etc/passwd:/bin").output()?;
        assert_eq!(output.exit, Exit::Code(3));
        for (path, errno) in [("/no/such", libc::ENOENT), ("", libc::ENOENT)] {
            let missing = Spawn::new("sh").env("PATH", path).cwd("/").spawn().err().and_then(|e| e.raw_os_error());
            assert_eq!(missing, Some(errno), "{path}");
        }
        Ok(())
    }

    #[test]
    fn a_child_has_no_signal_blocked_or_ignored_and_its_parent_keeps_its_own() -> Result<(), Box<dyn std::error::Error>>
    {
        let lines = |text: &str| -> Vec<String> {
            text.lines().filter(|line| line.starts_with("Sig")).map(str::to_owned).collect()
        };
        let before = lines(&std::fs::read_to_string("/proc/thread-self/status")?);
        let output = Spawn::new("/bin/cat").arg("/proc/self/status").output()?;
        for line in lines(text(&output.stdout)).iter().filter(|line| !line.starts_with("SigQ")) {
            let standard = u64::from_str_radix(line.split_whitespace().last().unwrap_or_default(), 16)? & 0x7FFF_FFFF;
            assert_eq!(standard, 0, "{line}");
        }
        let ours = lines(&std::fs::read_to_string("/proc/thread-self/status")?);
        assert_eq!(ours[1..], before[1..], "signals of the parent changed");
        assert!(ours.iter().any(|line| line.starts_with("SigIgn") && !line.ends_with("000000")), "SIGPIPE is ignored");
        Ok(())
    }

    #[test]
    fn streams_may_be_any_descriptors() -> io::Result<()> {
        let mut process = Spawn::new("/bin/sh")
            .args(["-c", "read line; echo out $line; echo err $line >&2"])
            .stdin(Stream::Pipe)
            .stdout(Stream::Pipe)
            .stderr(Stream::Pipe)
            .spawn()?;
        let (Some(mut stdin), stdout, stderr) = (process.take_stdin(), process.take_stdout(), process.take_stderr())
        else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        std::io::Write::write_all(&mut stdin, b"word\n")?;
        drop(stdin);
        assert_eq!((read_all(stdout)?, read_all(stderr)?), (b"out word\n".to_vec(), b"err word\n".to_vec()));
        assert_eq!(process.wait()?, Exit::Code(0));
        assert_eq!(process.try_wait()?, Some(Exit::Code(0)), "an end is remembered");
        process.kill()
    }

    #[test]
    fn many_threads_start_processes_at_once() {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || {
                    for round in 0..50 {
                        let code = (thread * 50 + round) % 256;
                        let end = Spawn::new("/bin/sh").args(["-c", &format!("exit {code}")]).output();
                        assert_eq!(end.ok().map(|output| output.exit), Some(Exit::Code(code)));
                        assert!(Spawn::new("/no/such/program").spawn().is_err());
                    }
                });
            }
        });
    }
}
