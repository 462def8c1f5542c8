//! How a process ended, in the words clients know.

use proto::process::process_event::EndEvent;
use sys::spawn::Exit;

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) exit: Exit,
    /// Its time limit ran out, and that is why.
    pub(super) timed_out: bool,
}

impl End {
    /// The message; the wording is that of Go's `os.ProcessState`, which clients compare with.
    pub(super) fn event(self) -> EndEvent {
        let (exit_code, exited, status) = match self.exit {
            Exit::Code(code) => (code, true, format!("exit status {code}")),
            Exit::Signal(signal) => (-1, false, format!("signal: {}", signal_text(signal))),
        };
        let error = match self.exit {
            _ if self.timed_out => Some("context deadline exceeded".to_owned()),
            Exit::Code(0) => None,
            _ => Some(status.clone()),
        };
        EndEvent { exit_code, exited, status, error, ..Default::default() }
    }
}

fn signal_text(signal: i32) -> String {
    let text = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        other => return format!("signal {other}"),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wording() {
        for (exit, timed_out, code, exited, status, error) in [
            (Exit::Code(0), false, 0, true, "exit status 0", None),
            (Exit::Code(42), false, 42, true, "exit status 42", Some("exit status 42")),
            (Exit::Signal(9), false, -1, false, "signal: killed", Some("signal: killed")),
            (Exit::Signal(9), true, -1, false, "signal: killed", Some("context deadline exceeded")),
            (Exit::Signal(40), false, -1, false, "signal: signal 40", Some("signal: signal 40")),
        ] {
            let event = End { exit, timed_out }.event();
            assert_eq!((event.exit_code, event.exited), (code, exited));
            assert_eq!((event.status.as_str(), event.error.as_deref()), (status, error));
        }
    }
}
