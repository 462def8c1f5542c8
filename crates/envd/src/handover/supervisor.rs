//! A daemon's supervisor, as the daemon sees it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Pid, Signal};
use sys::spawn::Exit;
use tokio::sync::oneshot;

use super::wire::{self, Held, Inbox, Message};

/// Has the supervisor look into its socket.
const WAKE: Signal = Signal::USR1;

/// Where descriptors and ends are left for the next daemon; nowhere, when nobody supervises this one.
///
/// Messages wait in the socket until the supervisor wakes for another reason: a start must not pay for a switch to it.
/// It is woken when there is no more room, and when something shall happen now.
#[derive(Debug, Clone, Default)]
pub struct Supervisor(Option<Arc<Link>>);

#[derive(Debug)]
struct Link {
    socket: OwnedFd,
    /// The supervisor, as long as it is this daemon's parent.
    process: Option<Pid>,
    next_id: AtomicU64,
    /// Who waits for the end of a process that is not this daemon's child.
    waiting: Mutex<HashMap<u64, oneshot::Sender<Exit>>>,
}

/// What earlier daemons left.
#[derive(Debug, Default)]
pub struct Estate {
    /// The socket they listened on.
    pub listener: Option<OwnedFd>,
    /// Their processes, oldest first.
    pub processes: Vec<Inherited>,
}

/// A process of an earlier daemon.
#[derive(Debug)]
pub struct Inherited {
    /// What was noted of it.
    pub held: Held,
    /// Its input, if it has one, and its outputs.
    pub descriptors: Vec<OwnedFd>,
    /// How it ended, when it has.
    pub exit: Option<Exit>,
}

impl Supervisor {
    /// Nobody.
    pub fn none() -> Self {
        Self::default()
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.0.as_ref().is_some_and(|link| link.parent().is_some())
    }

    /// Takes over what earlier daemons left. Blocks, shortly.
    pub fn meet(socket: OwnedFd) -> io::Result<(Self, Estate)> {
        let (mut estate, mut inbox) = (Estate::default(), Inbox::default());
        loop {
            match inbox.receive(&socket, RecvFlags::empty())? {
                Some((Message::Listener, mut descriptors)) => estate.listener = descriptors.pop(),
                Some((Message::Hold(held), descriptors)) => {
                    estate.processes.push(Inherited { held, descriptors, exit: None });
                }
                Some((Message::Ended { id, exit, .. }, _)) => {
                    if let Some(inherited) = estate.processes.iter_mut().find(|inherited| inherited.held.id == id) {
                        inherited.exit = Some(exit);
                    }
                }
                Some((Message::CloseInput(_), _)) => {}
                Some((Message::Ready, _)) => break,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let last = estate.processes.iter().map(|inherited| inherited.held.id).max().unwrap_or_default();
        let process = rustix::process::getppid();
        let link = Link { socket, process, next_id: AtomicU64::new(last + 1), waiting: Mutex::default() };
        Ok((Self(Some(Arc::new(link))), estate))
    }

    /// Hears of the ends of inherited processes from now on, on a thread of its own.
    pub fn listen(&self) -> io::Result<()> {
        let Some(link) = self.0.clone() else { return Ok(()) };
        std::thread::Builder::new().name("supervisor".into()).spawn(move || link.listen()).map(drop)
    }

    /// How an inherited process ends. To be asked before [`Self::listen`].
    pub fn end_of(&self, id: u64) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        if let Some(link) = &self.0 {
            link.waiting().insert(id, sender);
        }
        receiver
    }

    /// Leaves a started process with the supervisor; answers its number there.
    pub fn hold(
        &self,
        pid: u32,
        record: impl FnOnce() -> String,
        input: Option<BorrowedFd<'_>>,
        outputs: &[BorrowedFd<'_>],
    ) -> u64 {
        let Some(link) = &self.0 else { return 0 };
        let id = link.next_id.fetch_add(1, Ordering::Relaxed);
        let held = Held { id, pid, has_input: input.is_some(), record: record() };
        let descriptors: Vec<_> = input.into_iter().chain(outputs.iter().copied()).collect();
        link.send(&Message::Hold(held), &descriptors);
        id
    }

    /// The input of a process is closed.
    pub fn close_input(&self, id: u64) {
        self.tell(&Message::CloseInput(id));
        self.wake();
    }

    /// A process has ended; `drained` when its output has been read to its end, too.
    pub fn ended(&self, id: u64, exit: Exit, drained: bool) {
        self.tell(&Message::Ended { id, exit, drained });
    }

    /// This is where the daemon listens.
    pub fn listener(&self, listener: BorrowedFd<'_>) {
        if let Some(link) = &self.0 {
            link.send(&Message::Listener, &[listener]);
        }
    }

    /// The daemon serves.
    pub fn ready(&self) {
        self.tell(&Message::Ready);
        self.wake();
    }

    fn wake(&self) {
        if let Some(link) = &self.0 {
            link.wake();
        }
    }

    fn tell(&self, message: &Message) {
        if let Some(link) = &self.0 {
            link.send(message, &[]);
        }
    }
}

impl Link {
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Exit>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None once it has died: the daemon has another parent then, which a signal would only hurt.
    fn parent(&self) -> Option<Pid> {
        rustix::process::getppid().filter(|parent| Some(*parent) == self.process)
    }

    fn wake(&self) {
        if let Some(parent) = self.parent() {
            let _ = rustix::process::kill_process(parent, WAKE);
        }
    }

    fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) {
        let mut sent = wire::send(&self.socket, message, descriptors, SendFlags::DONTWAIT);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.wake();
            sent = wire::send(&self.socket, message, descriptors, SendFlags::empty());
        }
        if let Err(error) = sent {
            tracing::warn!(%error, "the supervisor was not told");
        }
    }

    fn listen(&self) {
        let mut inbox = Inbox::default();
        while let Ok(Some((message, _))) = inbox.receive(&self.socket, RecvFlags::empty()) {
            if let Message::Ended { id, exit, .. } = message
                && let Some(waiting) = self.waiting().remove(&id)
            {
                let _ = waiting.send(exit);
            }
        }
        // Nobody will ever tell.
        self.waiting().clear();
    }
}
