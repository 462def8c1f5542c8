//! Processes of earlier daemons.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use sys::spawn::Exit;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::audience::Audience;
use super::end::End;
use super::input::Input;
use super::pump::{Drain, Output};
use super::record::Record;
use super::shepherd::{Child, Shepherd};
use super::terminal::Terminal;
use super::{Process, State};
use crate::daemon::Daemon;
use crate::handover::Inherited;

/// Why an inherited process is let go.
#[derive(Debug, thiserror::Error)]
enum AdoptError {
    #[error("its record is damaged: {0}")]
    Record(#[from] serde_json::Error),
    #[error("descriptors are missing")]
    Missing,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Takes over what earlier daemons started. Must run inside the runtime, before the supervisor is listened to.
pub fn adopt(daemon: &Daemon, processes: Vec<Inherited>) {
    for inherited in processes {
        let pid = inherited.held.pid;
        let id = inherited.held.id;
        if let Err(error) = adopt_one(daemon, inherited) {
            tracing::warn!(pid, %error, "a process of the former daemon is let go");
            // Nobody reads what it says: its pipes are closed rather than filled.
            daemon.supervisor.ended(id, Exit::Code(-1), true);
        }
    }
}

fn adopt_one(daemon: &Daemon, inherited: Inherited) -> Result<(), AdoptError> {
    let Inherited { held, descriptors, exit } = inherited;
    let record = Record::decode(&held.record)?;
    let limit = record.limit();
    let mut descriptors = descriptors.into_iter();
    let input = if held.has_input { descriptors.next() } else { None };
    let (terminal, outputs) = outputs(record.terminal, descriptors)?;
    let process = Arc::new(Process {
        pid: held.pid,
        held: held.id,
        config: record.config,
        tag: record.tag,
        audience: Arc::new(if record.terminal { Audience::of_terminal() } else { Audience::new() }),
        terminal,
        input: match input {
            Some(input) => Input::pipe(pipe::Sender::from_owned_fd(input)?),
            None if record.stdin => Input::closed(),
            None => Input::none(),
        },
        grace: watch::Sender::new(Drain::new()),
        state: Mutex::new(State::Unreaped),
    });
    let table = Arc::clone(&daemon.processes);
    let supervisor = daemon.supervisor.clone();
    if let (Some(exit), true) = (exit, outputs.is_empty()) {
        process.mark_reaped();
        table.retire(&process);
        tokio::spawn(async move { process.audience.end(End { exit, timed_out: false }).await });
        return Ok(());
    }
    if exit.is_some() {
        process.mark_reaped();
    }
    table.insert(Arc::clone(&process));
    let child = match exit {
        Some(exit) => Child::ended_already(exit),
        None => Child::Inherited(supervisor.end_of(held.id)),
    };
    tokio::spawn(Shepherd { process, table, supervisor, child, outputs, limit }.tend());
    Ok(())
}

/// None are left once they have been read to their end.
fn outputs(
    is_terminal: bool,
    mut descriptors: impl ExactSizeIterator<Item = OwnedFd>,
) -> Result<(Option<Arc<Terminal>>, Vec<Output>), AdoptError> {
    if descriptors.len() == 0 {
        return Ok((None, Vec::new()));
    }
    if is_terminal {
        let terminal = Arc::new(Terminal::from_master(descriptors.next().ok_or(AdoptError::Missing)?)?);
        return Ok((Some(Arc::clone(&terminal)), vec![Output::Pty(terminal)]));
    }
    let mut pipe = || -> Result<_, AdoptError> {
        Ok(pipe::Receiver::from_owned_fd(descriptors.next().ok_or(AdoptError::Missing)?)?)
    };
    Ok((None, vec![Output::Stdout(pipe()?), Output::Stderr(pipe()?)]))
}
