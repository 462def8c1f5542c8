//! Processes: start, watch, feed, signal.
//!
//! A process belongs to nobody: a client that leaves ends nothing. Its output goes to whoever is attached at that
//! moment ([`audience`]); a slow reader slows the process down, and output nobody wants is dropped. A terminal's last
//! output is kept as well ([`ring`]): whoever attaches by tag sees it.

mod adopt;
mod audience;
mod end;
mod input;
mod launch;
mod pump;
mod record;
mod ring;
mod service;
mod shepherd;
mod stream;
mod table;
mod terminal;

pub use adopt::adopt;
pub use service::ProcessService;
pub use table::Table;

use std::sync::{Arc, Mutex, PoisonError};

use proto::process::{ProcessConfig, ProcessInfo, Signal};

use audience::Audience;
use input::Input;
use terminal::Terminal;

/// A process started through the daemon.
pub struct Process {
    pid: u32,
    /// Its number with the supervisor.
    held: u64,
    config: ProcessConfig,
    tag: Option<String>,
    terminal: Option<Arc<Terminal>>,
    input: Input,
    audience: Arc<Audience>,
    /// How long to wait for output others hold open, once the process itself has ended.
    grace: tokio::sync::watch::Sender<pump::Drain>,
    state: Mutex<State>,
}

/// Until it is reaped its pid, and its group's, cannot mean another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unreaped,
    Reaped,
}

/// A signal that could not be sent.
#[derive(Debug, thiserror::Error)]
enum SignalError {
    #[error("the process has ended")]
    Ended,
    #[error("cannot send the signal: {0}")]
    Kernel(#[from] rustix::io::Errno),
}

impl Process {
    fn info(&self) -> ProcessInfo {
        ProcessInfo { config: self.config.clone().into(), pid: self.pid, tag: self.tag.clone(), ..Default::default() }
    }

    /// `SIGTERM` reaches the process alone, `SIGKILL` its whole group: `sh -c "a | b"` dies completely.
    fn signal(&self, signal: Signal) -> Result<(), SignalError> {
        use rustix::process::{Pid, Signal as Number, kill_process, kill_process_group};
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let (State::Unreaped, Some(pid)) = (*state, pid) else { return Err(SignalError::Ended) };
        if signal == Signal::Sigkill {
            kill_process_group(pid, Number::KILL)?;
        } else {
            kill_process(pid, Number::TERM)?;
        }
        self.grace.send_modify(pump::Drain::hurry);
        Ok(())
    }

    fn mark_reaped(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Reaped;
    }
}
