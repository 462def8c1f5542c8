//! Keeping a daemon alive, reaping everybody's orphans, and holding what must outlive daemons.
//!
//! Synchronous and small: as PID 1 it must never fail.

use std::collections::VecDeque;
use std::fmt::Display;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{WaitOptions, wait};
use sys::spawn::{Exit, Process, Spawn, Stream};

use crate::handover::{self, Inbox, Keeping, Message};
use crate::limits;

/// Tells a daemon that its standard input is the socket to its supervisor.
pub const SUPERVISED: &str = "--supervised";
/// The binary an upgrade replaced is kept under this name until the new one serves.
pub const FORMER: &str = "former";

/// A supervisor and what it keeps.
pub struct Supervision<'a> {
    program: PathBuf,
    signals: SignalFd,
    keeping: Keeping,
    inbox: Inbox,
    say: &'a mut dyn FnMut(&dyn Display),
}

/// One life of the daemon.
struct Life {
    process: Process,
    /// None once the daemon has closed its end.
    socket: Option<OwnedFd>,
    outbox: VecDeque<Message>,
    started: Instant,
    ready: bool,
    terminated: bool,
}

impl<'a> Supervision<'a> {
    /// Of a daemon that runs `program`. `say` reports what happens to it. One that may be told to stop does so, daemon first,
    /// at SIGTERM and SIGINT; PID 1 must not: a blocked signal reaches even it (`sig_ignored()` in the kernel's signal.c).
    pub fn new(program: &Path, stoppable: bool, say: &'a mut dyn FnMut(&dyn Display)) -> io::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        // The daemon asks for attention: see `handover`.
        signals.add(Signal::SIGUSR1);
        if stoppable {
            signals.add(Signal::SIGTERM);
            signals.add(Signal::SIGINT);
        }
        signals.thread_block()?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let (keeping, inbox) = (Keeping::default(), Inbox::default());
        Ok(Self { program: program.to_owned(), signals, keeping, inbox, say })
    }

    /// Starts the daemon `describe` describes, again whenever it ends, until told to stop. The processes it started are its
    /// children no more then, but go on.
    pub fn run(&mut self, describe: impl Fn(&Path) -> Spawn) {
        loop {
            let began = Instant::now();
            match self.start(describe(&self.program)) {
                Ok(mut life) => {
                    let end = self.attend(&mut life);
                    if life.terminated {
                        return;
                    }
                    (self.say)(&format_args!("envd ended: {end:?}"));
                    if !life.ready {
                        self.roll_back();
                    }
                }
                Err(error) => {
                    (self.say)(&format_args!("starting envd: {error}"));
                    // A file just written may still be open in a process being started.
                    if error.kind() != io::ErrorKind::ExecutableFileBusy {
                        self.roll_back();
                    }
                }
            }
            if began.elapsed() < limits::STEADY {
                std::thread::sleep(limits::RESTART_PAUSE);
            }
        }
    }

    fn start(&mut self, spawn: Spawn) -> io::Result<Life> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let process = spawn.arg(SUPERVISED).stdin(Stream::Fd(theirs)).spawn()?;
        let outbox = self.keeping.replay().into();
        Ok(Life { process, socket: Some(ours), outbox, started: Instant::now(), ready: false, terminated: false })
    }

    /// Until the daemon ends.
    fn attend(&mut self, life: &mut Life) -> Exit {
        loop {
            self.wait_for_news(life);
            // The signal first: what was sent after it has been read is told by another one.
            self.obey(life);
            self.receive(life);
            self.send(life);
            if !life.ready && life.started.elapsed() > limits::READY {
                (self.say)(&"envd does not begin to serve");
                let _ = life.process.kill();
            }
            if let Some(end) = self.reap(life) {
                return end;
            }
        }
    }

    fn wait_for_news(&self, life: &Life) {
        let signals = PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN);
        let limit = Timespec { tv_sec: limits::READY.as_secs().cast_signed(), tv_nsec: 0 };
        let limit = (!life.ready).then_some(&limit);
        // An error is looked into by whoever uses the descriptor next.
        let _ = match &life.socket {
            Some(socket) if !life.outbox.is_empty() => poll(&mut [signals, PollFd::new(socket, PollFlags::OUT)], limit),
            _ => poll(&mut [signals], limit),
        };
    }

    /// As much as there is room for.
    fn send(&self, life: &mut Life) {
        let Some(socket) = &life.socket else { return };
        while let Some(message) = life.outbox.pop_front() {
            let descriptors = self.keeping.descriptors(&message);
            match handover::send(socket, &message, &descriptors, SendFlags::DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return life.outbox.push_front(message),
                // It ended, or will never know what it must: the next one is told everything again.
                Err(_) => {
                    let _ = life.process.kill();
                    return life.outbox.clear();
                }
                Ok(()) => {}
            }
        }
    }

    fn receive(&mut self, life: &mut Life) {
        while let Some(socket) = &life.socket {
            match self.inbox.receive(socket, RecvFlags::DONTWAIT) {
                Ok(Some((Message::Ready, _))) => {
                    life.ready = true;
                    let _ = fs::remove_file(self.former());
                }
                Ok(Some((message, descriptors))) => self.keeping.apply(message, descriptors),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(None) | Err(_) => life.socket = None,
            }
        }
    }

    /// Whoever tells the supervisor to stop means the daemon.
    fn obey(&self, life: &mut Life) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if [Signal::SIGTERM as u32, Signal::SIGINT as u32].contains(&signal.ssi_signo) {
                life.terminated = true;
                let _ = life.process.terminate();
            }
        }
    }

    /// Waits for every child that has ended. What the daemon said before it ended counts before what became of its children.
    fn reap(&mut self, life: &mut Life) -> Option<Exit> {
        let mut ended = Vec::new();
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let exit = Exit::of(ExitStatus::from_raw(status.as_raw()));
                    ended.push((pid.as_raw_nonzero().get().unsigned_abs(), exit));
                }
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => break,
            }
        }
        if ended.is_empty() {
            return None;
        }
        self.receive(life);
        let mut end = None;
        for (pid, exit) in ended {
            if pid == life.process.pid() {
                end = Some(exit);
            } else {
                life.outbox.extend(self.keeping.orphan_ended(pid, exit));
            }
        }
        end
    }

    fn former(&self) -> PathBuf {
        self.program.with_extension(FORMER)
    }

    /// A new daemon that never served gives way to the one it replaced.
    fn roll_back(&mut self) {
        match fs::rename(self.former(), &self.program) {
            Ok(()) => (self.say)(&"the upgrade is taken back"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => (self.say)(&format_args!("the upgrade cannot be taken back: {error}")),
        }
    }
}
