//! Starting a process.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use proto::process::StartRequest;
use rustix::io::Errno;
use rustix::process::Resource;
use sys::spawn::{Credentials, Exit, Spawn, Stream};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};

use super::audience::{Audience, News, Past};
use super::end::End;
use super::input::Input;
use super::pump::{Drain, Output};
use super::record::{self, Record};
use super::shepherd::{Child, Shepherd};
use super::terminal::Terminal;
use super::{Process, State};
use crate::cgroups::Group;
use crate::daemon::Daemon;
use crate::handover::Supervisor;
use crate::paths::{self, PathError};
use crate::users::User;

/// Users' processes go first when memory runs out; the daemon itself never does.
const OOM_SCORE_ADJ: i32 = 100;
/// Where programs are looked for when the daemon itself has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Linux gives no pid above this (`PID_MAX_LIMIT`), so larger ones are free for processes that never were.
const LARGEST_PID: u32 = 4 << 20;

/// A process that could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    #[error("no process given")]
    NoProcess,
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("cwd '{0}' does not exist")]
    NoCwd(PathBuf),
    #[error("too many processes")]
    TooMany,
    #[error("cannot start the process: {0}")]
    Spawn(#[from] io::Error),
}

/// A launched process and what it says from its first byte on.
pub(super) struct Launched {
    pub(super) pid: u32,
    pub(super) news: mpsc::Receiver<News>,
}

/// Starts what is asked for, as `user`. `limit` is the longest it may run. Blocks; must run inside the runtime.
pub(super) fn launch(
    daemon: &Daemon,
    request: StartRequest,
    user: &User,
    limit: Option<Duration>,
) -> Result<Launched, LaunchError> {
    if daemon.processes.is_full() {
        return Err(LaunchError::TooMany);
    }
    let spawn = command(daemon, &request, user)?;
    let (streams, theirs) = Streams::open(&request)?;
    let child = match theirs.attach(spawn).spawn() {
        Ok(process) => process,
        Err(error) => return never_started(daemon, request, &error),
    };
    let pid = child.pid();
    let child = Child::own(child)?;
    let held = streams.leave_with(&daemon.supervisor, pid, &request, limit);
    let process =
        Arc::new(process(pid, held, request, streams.terminal, streams.input.map_or_else(Input::none, Input::pipe)));
    let news = process.audience.join(Past::Unheard);
    daemon.processes.insert(Arc::clone(&process));
    let (table, supervisor) = (Arc::clone(&daemon.processes), daemon.supervisor.clone());
    let shepherd =
        Shepherd { process: Arc::clone(&process), table, supervisor, child, outputs: streams.outputs, limit };
    tokio::spawn(shepherd.tend());
    Ok(Launched { pid, news })
}

fn process(pid: u32, held: u64, request: StartRequest, terminal: Option<Arc<Terminal>>, input: Input) -> Process {
    Process {
        pid,
        held,
        config: request.process.into_option().unwrap_or_default(),
        tag: request.tag,
        audience: Arc::new(if terminal.is_some() { Audience::of_terminal() } else { Audience::new() }),
        terminal,
        input,
        grace: watch::Sender::new(Drain::new()),
        state: Mutex::new(State::Unreaped),
    }
}

/// The E2B SDKs run every command and terminal in `/bin/bash`, which small images do not have; what they ask of it (`-i`,
/// `-l`, `-c`) any shell does.
fn program(cmd: &str) -> &Path {
    const BASH: &str = "/bin/bash";
    let stands_in = cmd == BASH && !Path::new(BASH).exists();
    Path::new(if stands_in { "/bin/sh" } else { cmd })
}

/// Everything but the three streams.
fn command(daemon: &Daemon, request: &StartRequest, user: &User) -> Result<Spawn, LaunchError> {
    let Some(config) = request.process.as_option() else { return Err(LaunchError::NoProcess) };
    let settings = daemon.settings.get();
    let cwd = paths::resolve(config.cwd.as_deref().unwrap_or_default(), &user.home, settings.workdir.as_deref())?;
    if !cwd.is_dir() {
        return Err(LaunchError::NoCwd(cwd));
    }
    let mut env = BTreeMap::new();
    env.insert("PATH".to_owned(), std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.to_owned()));
    env.insert("HOME".to_owned(), user.home.to_string_lossy().into_owned());
    env.insert("USER".to_owned(), user.name.clone());
    env.insert("LOGNAME".to_owned(), user.name.clone());
    env.extend(settings.env);
    env.extend(config.envs.iter().map(|(key, value)| (key.clone(), value.clone())));
    let credentials = Credentials { uid: user.uid, gid: user.gid, groups: user.groups.clone() };
    let (soft, hard) = daemon.options.descriptors;
    let mut spawn = Spawn::new(program(&config.cmd))
        .args(&config.args)
        .cwd(cwd)
        .new_session()
        .nice(0)
        .limit(Resource::Nofile as u32, soft, hard)
        .oom_score_adj(OOM_SCORE_ADJ)
        .credentials(credentials);
    // A name the kernel's environment format cannot hold would end the whole start.
    for (key, value) in env.iter().filter(|(key, _)| !key.is_empty() && !key.contains('=')) {
        spawn = spawn.env(key, value);
    }
    let group = if request.pty.is_set() { Group::Pty } else { Group::User };
    Ok(match daemon.cgroups.procs(group) {
        Some(procs) => spawn.join_cgroup(procs),
        None => spawn,
    })
}

/// Our ends of everything a process reads and writes.
struct Streams {
    terminal: Option<Arc<Terminal>>,
    input: Option<pipe::Sender>,
    outputs: Vec<Output>,
}

/// The process's ends.
struct ChildStreams {
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
    is_terminal: bool,
}

impl ChildStreams {
    fn attach(self, spawn: Spawn) -> Spawn {
        let spawn = spawn.stdin(self.stdin).stdout(self.stdout).stderr(self.stderr);
        if self.is_terminal { spawn.controlling_terminal() } else { spawn }
    }
}

impl Streams {
    fn open(request: &StartRequest) -> io::Result<(Self, ChildStreams)> {
        match request.pty.as_option() {
            Some(pty) => {
                let (terminal, end) = Terminal::open(pty)?;
                let terminal = Arc::new(terminal);
                let (stdin, stdout) = (Stream::Fd(end.try_clone()?), Stream::Fd(end.try_clone()?));
                let child = ChildStreams { stdin, stdout, stderr: Stream::Fd(end), is_terminal: true };
                let outputs = vec![Output::Pty(Arc::clone(&terminal))];
                Ok((Self { outputs, terminal: Some(terminal), input: None }, child))
            }
            None => Self::pipes(request.stdin != Some(false)),
        }
    }

    fn pipes(with_stdin: bool) -> io::Result<(Self, ChildStreams)> {
        let (stdout, our_stdout) = output_pipe()?;
        let (stderr, our_stderr) = output_pipe()?;
        let (stdin, input) = if with_stdin {
            let (theirs, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            (Stream::Fd(theirs), Some(pipe::Sender::from_owned_fd(ours)?))
        } else {
            (Stream::Null, None)
        };
        let outputs = vec![Output::Stdout(our_stdout), Output::Stderr(our_stderr)];
        let child = ChildStreams { stdin, stdout, stderr, is_terminal: false };
        Ok((Self { terminal: None, input, outputs }, child))
    }

    /// Duplicates of our ends, so that the process does not notice the death of this daemon.
    fn leave_with(&self, supervisor: &Supervisor, pid: u32, request: &StartRequest, limit: Option<Duration>) -> u64 {
        let record = || Record {
            config: request.process.as_option().cloned().unwrap_or_default(),
            tag: request.tag.clone(),
            terminal: self.terminal.is_some(),
            stdin: self.input.is_some(),
            deadline_ms: limit.map(record::deadline_ms),
        };
        let outputs: Vec<_> = self.outputs.iter().map(Output::descriptor).collect();
        supervisor.hold(pid, || record().encode(), self.input.as_ref().map(AsFd::as_fd), &outputs)
    }
}

fn output_pipe() -> io::Result<(Stream, pipe::Receiver)> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((Stream::Fd(theirs), pipe::Receiver::from_owned_fd(ours)?))
}

/// Clients know a missing command as a process that ends at once with 127, as a shell would report it.
fn never_started(daemon: &Daemon, request: StartRequest, error: &io::Error) -> Result<Launched, LaunchError> {
    static NEXT: AtomicU32 = AtomicU32::new(LARGEST_PID + 1);
    let (code, reason) = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR) => (127, "not found"),
        Some(Errno::ACCESS | Errno::PERM) => (126, "permission denied"),
        Some(Errno::NOEXEC | Errno::ISDIR | Errno::LOOP | Errno::NAMETOOLONG) => (126, "cannot execute"),
        Some(Errno::TOOBIG) => (126, "argument list too long"),
        _ => return Err(io::Error::new(error.kind(), error.to_string()).into()),
    };
    let is_terminal = request.pty.is_set();
    let line = format!("{}: {reason}{}", request.process.cmd, if is_terminal { "\r\n" } else { "\n" });
    let pid = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = Arc::new(process(pid, 0, request, None, Input::none()));
    let news = process.audience.join(Past::Unheard);
    process.mark_reaped();
    daemon.processes.retire(&process);
    let told = Arc::clone(&process);
    tokio::spawn(async move {
        let line = Bytes::from(line);
        told.audience.tell(if is_terminal { News::Pty(line) } else { News::Stderr(line) }).await;
        told.audience.end(End { exit: Exit::Code(code), timed_out: false }).await;
    });
    Ok(Launched { pid, news })
}
