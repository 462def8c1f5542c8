//! Foreground commands: run to the end, with bounded output and time.

use super::Guest;
use super::process::{Command, ProcessEvent, ProcessStream, Selector, Signal};
use futures_util::StreamExt;
use model::{Code, Error, limits};
use std::time::{Duration, Instant};

/// The agent's own limit is this much later: it ends the process should this server die.
const AGENT_GRACE: Duration = Duration::from_secs(2);

/// What a finished command left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// At most [`limits::EXEC_OUTPUT_BYTES_MAX`].
    pub stdout: Vec<u8>,
    /// At most [`limits::EXEC_OUTPUT_BYTES_MAX`].
    pub stderr: Vec<u8>,
    /// -1 when a signal ended it.
    pub exit_code: i32,
    /// How long it ran.
    pub duration_ms: u64,
    /// Output was cut at the limit.
    pub truncated: bool,
}

impl Guest {
    /// Runs a command to its end. After `limit` it is killed and the answer is [`Code::Timeout`].
    pub async fn exec(&self, command: &Command, limit: Duration) -> Result<ExecOutput, Error> {
        let started = Instant::now();
        let deadline = tokio::time::Instant::now() + limit;
        let out_of_time = || Error::new(Code::Timeout, format!("the command did not end within {} s", limit.as_secs()));
        let agent_limit_ms = u64::try_from((limit + AGENT_GRACE).as_millis()).unwrap_or(u64::MAX);
        let start = self.start(command, None, agent_limit_ms);
        let mut events = tokio::time::timeout_at(deadline, start).await.map_err(|_| out_of_time())??;
        let mut output = ExecOutput::default();
        let mut pid = None;
        let Ok(ended) = tokio::time::timeout_at(deadline, collect(&mut events, &mut output, &mut pid)).await else {
            self.kill_late(pid).await;
            return Err(out_of_time());
        };
        ended?;
        output.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(output)
    }

    async fn kill_late(&self, pid: Option<u32>) {
        let Some(pid) = pid else { return };
        match self.kill(&Selector::Pid(pid), Signal::Kill).await {
            Ok(()) => {}
            Err(error) if error.code == Code::NotFound => {}
            Err(error) => tracing::warn!(capsule = %self.id, pid, %error, "cannot kill a command that is out of time"),
        }
    }
}

async fn collect(events: &mut ProcessStream, output: &mut ExecOutput, pid: &mut Option<u32>) -> Result<(), Error> {
    while let Some(event) = events.next().await {
        match event? {
            ProcessEvent::Start { pid: started } => *pid = Some(started),
            ProcessEvent::Stdout(bytes) | ProcessEvent::Pty(bytes) => {
                output.truncated |= append(&mut output.stdout, &bytes);
            }
            ProcessEvent::Stderr(bytes) => output.truncated |= append(&mut output.stderr, &bytes),
            ProcessEvent::End { exit_code, .. } => {
                output.exit_code = exit_code;
                return Ok(());
            }
        }
    }
    Err(Error::new(Code::AgentError, "the command's output ended before the command"))
}

/// Keeps what fits; true when something did not. The rest is still read, so that the command can end.
fn append(buffer: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let room = limits::EXEC_OUTPUT_BYTES_MAX.saturating_sub(buffer.len());
    let kept = bytes.get(..room).unwrap_or(bytes);
    buffer.extend_from_slice(kept);
    kept.len() < bytes.len()
}
