//! Standard input of a process without a terminal.

use std::io;

use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::Mutex;

/// Writes are whole and in the order in which they took the lock.
#[derive(Debug)]
pub(super) struct Input(Mutex<State>);

#[derive(Debug)]
enum State {
    Pipe(pipe::Sender),
    /// Never was one: the process reads `/dev/null`, or has a terminal.
    None,
    Closed,
}

/// Input that was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    #[error("the process was started without stdin")]
    None,
    #[error("stdin of the process is closed")]
    Closed,
    #[error("cannot write to the process: {0}")]
    Io(#[from] io::Error),
}

impl Input {
    pub(super) fn pipe(sender: pipe::Sender) -> Self {
        Self(Mutex::new(State::Pipe(sender)))
    }

    /// It was one.
    pub(super) fn closed() -> Self {
        Self(Mutex::new(State::Closed))
    }

    pub(super) fn none() -> Self {
        Self(Mutex::new(State::None))
    }

    /// Waits while the process does not read.
    pub(super) async fn write(&self, bytes: &[u8]) -> Result<(), InputError> {
        match &mut *self.0.lock().await {
            State::Pipe(sender) => match sender.write_all(bytes).await {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(InputError::Closed),
                written => Ok(written?),
            },
            State::None => Err(InputError::None),
            State::Closed => Err(InputError::Closed),
        }
    }

    /// Closes it after the writes before; closing again does nothing.
    pub(super) async fn close(&self) -> Result<(), InputError> {
        let mut state = self.0.lock().await;
        match *state {
            State::Pipe(_) | State::Closed => {
                *state = State::Closed;
                Ok(())
            }
            State::None => Err(InputError::None),
        }
    }
}
