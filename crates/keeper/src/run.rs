//! The keeper's own process.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead as _, Read as _, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};
use std::pin::pin;

use rustix::process::{Resource, Signal};
use sys::jail::Visible;
use sys::readiness::watch;
use sys::spawn::{Credentials, Exit, Process, Spawn, Stream};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixListener;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{SignalKind, signal};
use vmm::{Jail, User};

use crate::cgroup::{Cgroup, CgroupSpec};
use crate::console::{Hub, Ring};
use crate::limits;
use crate::paging::{Paging, lost};
use crate::records::{self, CONSOLE, Cause, EXIT, End, ExitRecord, KeeperSpec, LOG, RUNNING, Running, SPEC};

/// Why a keeper could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No spec, or none of ours.
    #[error("cannot read {path}: {source}")]
    Spec {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A namespace or group does not exist, or the VMM cannot be executed.
    #[error("cannot start the VMM: {0}")]
    Start(io::Error),
    /// The machine's directory or this process's own descriptors fail.
    #[error("cannot {action}: {source}")]
    Own {
        /// What was to be done.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

fn own(action: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Own { action, source }
}

/// Reads a directory's path, a line, from standard input and runs the VMM described by the [`KeeperSpec`] in there to its end. Blocks;
/// the body of `wrenn keeper`. Without a line, because whoever started it has ended, it does nothing.
///
/// Writes one byte to standard output once the VMM runs and `keeper.json` and `console.sock` are there; what goes wrong later goes to
/// `keeper.log`.
pub fn run() -> Result<(), RunError> {
    let Some(dir) = told().map_err(own("read the machine's directory from standard input"))? else { return Ok(()) };
    // So that the socket's path is short, and nothing keeps the caller's directory busy.
    std::env::set_current_dir(&dir).map_err(own("enter the machine's directory"))?;
    let spec = read_spec(&dir)?;
    // One thread: the VMM's death signal is tied to the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let record = match runtime.map_err(own("start"))?.block_on(keep(&spec)) {
        Ok(record) => record,
        Err(error) => {
            let record = ExitRecord::new(End::NotStarted, Cause::StartFailed, String::new(), error.to_string());
            records::write(&spec.dir, EXIT, &record).map_err(own("write exit.json"))?;
            return Err(error);
        }
    };
    records::write(&spec.dir, EXIT, &record).map_err(own("write exit.json"))
}

fn told() -> io::Result<Option<PathBuf>> {
    let mut line = Vec::new();
    io::stdin().lock().take(limits::LINE_BYTES).read_until(b'\n', &mut line)?;
    Ok(line.strip_suffix(b"\n").map(|dir| PathBuf::from(OsStr::from_bytes(dir))))
}

fn read_spec(dir: &Path) -> Result<KeeperSpec, RunError> {
    let error = |source| RunError::Spec { path: dir.join(SPEC), source };
    records::read(dir, SPEC).map_err(error)?.ok_or_else(|| error(io::ErrorKind::NotFound.into()))
}

/// Standard error goes to the machine's log from here on.
fn open_log(dir: &Path) -> io::Result<()> {
    Ok(rustix::stdio::dup2_stderr(records::create(&dir.join(LOG))?)?)
}

async fn keep(spec: &KeeperSpec) -> Result<ExitRecord, RunError> {
    open_log(&spec.dir).map_err(own("create keeper.log"))?;
    let listener = UnixListener::bind(CONSOLE).map_err(own("make console.sock"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(own("watch signals"))?;
    let paging = spec.pager.as_ref().map(Paging::listen).transpose().map_err(own("offer guest memory"))?;
    let process = start(spec).map_err(RunError::Start)?;
    let (mut child, mut output) = split(process).map_err(own("watch the VMM"))?;
    let running = child.running();
    records::write(&spec.dir, RUNNING, &running).map_err(own("write keeper.json"))?;
    // The agent may be gone already; the VMM is kept all the same.
    let _ = io::stdout().write_all(b"!").and_then(|()| io::stdout().flush());

    // Only now: joining takes the kernel some 10 ms (an RCU grace period), and nothing of a guest's runs yet.
    let group = spec.cgroup.as_ref().map(|wanted| join(wanted, running.vmm_pid));
    let (mut requested, mut pages_lost) = (false, None);
    let mut lost = pin!(lost(paging));
    let exit = loop {
        tokio::select! {
            exit = child.ended() => break exit.map_err(own("wait for the VMM"))?,
            () = output.drain() => {}
            client = listener.accept() => if let Ok((stream, _)) = client { output.console.serve(stream, running) },
            why = &mut lost, if pages_lost.is_none() => {
                pages_lost = Some(why);
                child.process.kill().map_err(own("kill the VMM"))?;
            }
            _ = terminate.recv() => {
                requested = true;
                child.process.kill().map_err(own("kill the VMM"))?;
            }
        }
    };
    let _ = tokio::time::timeout(limits::DRAIN, output.drain_all()).await;
    if let Some(why) = &pages_lost {
        output.errors.push(format!("{why}\n").as_bytes());
    }
    let oom = group.is_some_and(Cgroup::end);
    let console_tail = output.console.ring.tail(limits::TAIL_BYTES);
    let errors_tail = output.errors.tail(limits::TAIL_BYTES);
    let _ = tokio::time::timeout(limits::DRAIN, output.console.close()).await;
    Ok(ExitRecord::new(exit.into(), cause(exit, requested, pages_lost.is_some(), oom), console_tail, errors_tail))
}

/// Nobody waits for the answer, so what went wrong is left in the keeper's log.
fn join(wanted: &CgroupSpec, pid: u32) -> Cgroup {
    let (group, unlimited) = wanted.join(pid);
    for problem in unlimited {
        let _ = writeln!(io::stderr(), "keeper: {problem}");
    }
    group
}

fn cause(exit: Exit, requested: bool, pages_lost: bool, oom: bool) -> Cause {
    match exit {
        _ if requested => Cause::Requested,
        Exit::Code(0) => Cause::Finished,
        Exit::Signal(signal) if signal == Signal::KILL.as_raw() && pages_lost => Cause::PagesLost,
        Exit::Signal(signal) if signal == Signal::KILL.as_raw() && oom => Cause::HostOom,
        _ => Cause::Crashed,
    }
}

fn start(spec: &KeeperSpec) -> io::Result<Process> {
    let mut spawn = Spawn::new(&spec.command.program)
        .args(&spec.command.args)
        .cwd(&spec.command.cwd)
        // Nothing else of the environment: it may hold the agent's secrets.
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdout(Stream::Pipe)
        .stderr(Stream::Pipe)
        .death_signal(Signal::KILL.as_raw())
        .oom_score_adj(spec.oom_score_adj)
        // Guest memory has no business in a core file.
        .limit(Resource::Core as u32, 0, 0)
        .no_new_privileges();
    if let Some(path) = &spec.network_namespace {
        spawn = spawn.enter_namespace(File::open(path)?.into());
    }
    if let Some(jail) = &spec.command.jail {
        let User { uid, gid } = jail.user;
        spawn = spawn.enter_namespace(make(jail)?).credentials(Credentials { uid, gid, groups: vec![gid] });
    }
    spawn.spawn()
}

fn make(jail: &Jail) -> io::Result<OwnedFd> {
    let User { uid, gid } = jail.user;
    for path in &jail.own {
        lchown(path, Some(uid), Some(gid))?;
    }
    let read = jail.read.iter().map(|path| Visible::Read(path));
    let own = jail.own.iter().map(|path| Visible::Write(path));
    let devices = jail.devices.iter().map(|path| Visible::Device(path, (uid, gid)));
    sys::jail::make(&jail.root, &read.chain(own).chain(devices).collect::<Vec<_>>())
}

/// A VMM's process.
struct Child {
    process: Process,
    end: AsyncFd<OwnedFd>,
}

/// What a VMM says.
struct Output {
    stdout: Pipe,
    stderr: Pipe,
    console: Hub,
    errors: Ring,
}

/// One stream of it.
struct Pipe {
    /// Until it ends.
    stream: Option<Receiver>,
    buffer: Box<[u8]>,
}

fn split(mut process: Process) -> io::Result<(Child, Output)> {
    let stdout = process.take_stdout().ok_or(io::ErrorKind::BrokenPipe)?;
    let stderr = process.take_stderr().ok_or(io::ErrorKind::BrokenPipe)?;
    let output = Output {
        stdout: Pipe::new(stdout.into())?,
        stderr: Pipe::new(stderr.into())?,
        console: Hub::new(),
        errors: Ring::new(limits::ERRORS_BYTES),
    };
    Ok((Child { end: watch(process.pidfd()?, Interest::READABLE)?, process }, output))
}

impl Child {
    fn running(&self) -> Running {
        let (keeper_pid, vmm_pid) = (std::process::id(), self.process.pid());
        let start = |pid| records::start_time(pid).unwrap_or(0);
        Running { keeper_pid, keeper_start: start(keeper_pid), vmm_pid, vmm_start: start(vmm_pid) }
    }

    async fn ended(&mut self) -> io::Result<Exit> {
        loop {
            let mut ready = self.end.readable().await?;
            if let Some(exit) = self.process.try_wait()? {
                return Ok(exit);
            }
            ready.clear_ready();
        }
    }
}

impl Output {
    /// Takes one piece of output; waits for ever once both streams have ended.
    async fn drain(&mut self) {
        tokio::select! {
            chunk = self.stdout.next() => self.console.push(chunk),
            chunk = self.stderr.next() => self.errors.push(chunk),
        }
    }

    async fn drain_all(&mut self) {
        while self.stdout.stream.is_some() || self.stderr.stream.is_some() {
            self.drain().await;
        }
    }
}

impl Pipe {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { stream: Some(Receiver::from_owned_fd(fd)?), buffer: vec![0; limits::READ_BYTES].into() })
    }

    /// The next piece, empty at the end; after that there is nothing to wait for.
    async fn next(&mut self) -> &[u8] {
        let Some(stream) = &mut self.stream else { return std::future::pending().await };
        match stream.read(&mut self.buffer).await {
            Ok(count) if count > 0 => self.buffer.get(..count).unwrap_or_default(),
            _ => {
                self.stream = None;
                &[]
            }
        }
    }
}
