//! Processes: start, attach, feed, signal.

use super::{CHUNK_BYTES_MAX, Guest, QUEUE, call};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt};
use model::{Code, Error, rest};
use proto::hostagent::v1 as agent;
use proto::process as wire;
use proto::process::process_event::{self, data_event::Output};
use proto::process::process_input::Input as WireInput;
use std::collections::BTreeMap;
use std::str::FromStr;
use tokio::sync::mpsc;

/// A command to run in a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// Executable, found in `PATH`.
    pub cmd: String,
    /// Its arguments, passed verbatim.
    pub args: Vec<String>,
    /// More environment.
    pub envs: BTreeMap<String, String>,
    /// Working directory; absent = the default one.
    pub cwd: Option<String>,
    /// User to run as; absent = the capsule's default user.
    pub user: Option<String>,
    /// Name to find it by.
    pub tag: Option<String>,
    /// Whether it gets a pipe as standard input; else that is empty.
    pub stdin: bool,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PtySize {
    /// Columns.
    pub cols: u32,
    /// Rows.
    pub rows: u32,
}

/// How a process is named in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// By process id.
    Pid(u32),
    /// By tag.
    Tag(String),
}

impl FromStr for Selector {
    type Err = std::convert::Infallible;

    /// Digits that fit 32 bits are a process id, everything else is a tag.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        Ok(match text.parse() {
            Ok(pid) if digits => Self::Pid(pid),
            _ => Self::Tag(text.to_owned()),
        })
    }
}

/// Signals a client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ask it to end.
    Term,
    /// End it.
    Kill,
}

/// A process that runs in the background.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Process id in the guest.
    pub pid: u32,
    /// Name to find it by.
    pub tag: String,
}

/// What a process did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It runs; always first.
    Start {
        /// Process id in the guest.
        pid: u32,
    },
    /// It wrote to its standard output.
    Stdout(Bytes),
    /// It wrote to its standard error.
    Stderr(Bytes),
    /// It wrote to its terminal.
    Pty(Bytes),
    /// It ended; always last.
    End {
        /// -1 when a signal ended it.
        exit_code: i32,
        /// Why it did not exit by itself.
        error: Option<String>,
    },
}

/// Events of a process. Dropping it leaves the process alone.
pub type ProcessStream = BoxStream<'static, Result<ProcessEvent, Error>>;

/// What a client types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// To its pipe.
    Stdin(Bytes),
    /// To its terminal.
    Pty(Bytes),
}

impl Guest {
    /// Starts a process and follows it. With a size it gets a terminal.
    pub async fn stream(&self, command: &Command, pty: Option<PtySize>) -> Result<ProcessStream, Error> {
        self.start(command, pty, 0).await
    }

    /// `limit_ms`: the agent ends the process then; 0 = never.
    pub(super) async fn start(
        &self,
        command: &Command,
        pty: Option<PtySize>,
        limit_ms: u64,
    ) -> Result<ProcessStream, Error> {
        let request = agent::StartProcessRequest {
            target: Some(self.target(command.user.as_deref())).into(),
            request: Some(start_request(command, pty)).into(),
            timeout_ms: limit_ms,
            ..Default::default()
        };
        let answer = self.link.streams().start_process(request).await.map_err(|e| hostlink::error(&e))?;
        Ok(stream::unfold(Some(answer), |answer| async {
            let mut answer = answer?;
            let message = answer.message::<wire::StartResponse>().await;
            let message = message.map(|m| m.map(|m| m.to_owned_message().event.into_option()));
            step(message).map(|(event, last)| (event, (!last).then_some(answer)))
        })
        .filter_map(async |event| event.transpose())
        .fuse()
        .boxed())
    }

    /// Follows a process that runs already: start, output from now on, end.
    pub async fn attach(&self, process: &Selector) -> Result<ProcessStream, Error> {
        let request = agent::ConnectProcessRequest {
            target: Some(self.target(None)).into(),
            request: Some(wire::ConnectRequest { process: selector(process), ..Default::default() }).into(),
            ..Default::default()
        };
        let answer = self.link.streams().connect_process(request).await.map_err(|e| hostlink::error(&e))?;
        Ok(stream::unfold(Some(answer), |answer| async {
            let mut answer = answer?;
            let message = answer.message::<wire::ConnectResponse>().await;
            let message = message.map(|m| m.map(|m| m.to_owned_message().event.into_option()));
            step(message).map(|(event, last)| (event, (!last).then_some(answer)))
        })
        .filter_map(async |event| event.transpose())
        .fuse()
        .boxed())
    }

    /// Starts a process and answers as soon as it runs. The command must have a tag.
    pub async fn start_background(&self, command: &Command) -> Result<Started, Error> {
        let tag = command.tag.clone().ok_or_else(|| Error::invalid("a background process needs a tag"))?;
        let mut events = self.start(command, None, 0).await?;
        match events.next().await.transpose()? {
            Some(ProcessEvent::Start { pid }) => Ok(Started { pid, tag }),
            _ => Err(Error::new(Code::AgentError, "the process ended before it started")),
        }
    }

    /// The processes that were started through the guest's daemon and still run.
    pub async fn processes(&self) -> Result<Vec<rest::Process>, Error> {
        let request = agent::ListProcessesRequest { target: Some(self.target(None)).into(), ..Default::default() };
        let answer = self.link.rpc().list_processes_with_options(request, call()).await;
        let processes = answer.map_err(|e| hostlink::error(&e))?.into_owned().processes;
        Ok(processes
            .into_iter()
            .map(|process| {
                let config = process.config.into_option().unwrap_or_default();
                rest::Process { pid: process.pid, tag: process.tag, cmd: config.cmd, args: config.args }
            })
            .collect())
    }

    /// Sends a signal; [`Code::NotFound`] when there is no such process.
    pub async fn kill(&self, process: &Selector, signal: Signal) -> Result<(), Error> {
        let signal = match signal {
            Signal::Term => wire::Signal::SIGNAL_SIGTERM,
            Signal::Kill => wire::Signal::SIGNAL_SIGKILL,
        };
        let request =
            wire::SendSignalRequest { process: selector(process), signal: signal.into(), ..Default::default() };
        let request = agent::SendSignalRequest {
            target: Some(self.target(None)).into(),
            request: Some(request).into(),
            ..Default::default()
        };
        let answer = self.link.rpc().send_signal_with_options(request, call()).await;
        answer.map(drop).map_err(|e| hostlink::error(&e))
    }

    /// Changes the size of a process's terminal.
    pub async fn resize(&self, process: &Selector, size: PtySize) -> Result<(), Error> {
        let request =
            wire::UpdateRequest { process: selector(process), pty: Some(terminal(size)).into(), ..Default::default() };
        let request = agent::UpdateProcessRequest {
            target: Some(self.target(None)).into(),
            request: Some(request).into(),
            ..Default::default()
        };
        let answer = self.link.rpc().update_process_with_options(request, call()).await;
        answer.map(drop).map_err(|e| hostlink::error(&e))
    }

    /// Feeds a process in order over one request, until the sender of `queue` is dropped. Inputs that wait are
    /// joined, so that pasted text costs one message rather than one per key.
    pub async fn feed(&self, process: &Selector, queue: mpsc::Receiver<Input>) -> Result<(), Error> {
        let first = wire::stream_input_request::StartEvent { process: selector(process), ..Default::default() };
        let first = agent::StreamInputRequest {
            target: Some(self.target(None)).into(),
            request: Some(wire::StreamInputRequest { event: Some(first.into()), ..Default::default() }).into(),
            ..Default::default()
        };
        let rest = stream::unfold((queue, None), |(mut queue, held)| async move {
            let (input, held) = coalesced(&mut queue, held).await?;
            Some((input_message(input), (queue, held)))
        });
        let requests = stream::iter([first]).chain(rest);
        let answer = self.link.streams().stream_input(requests).await;
        answer.map(drop).map_err(|e| hostlink::error(&e))
    }

    /// A queue for [`Guest::feed`].
    #[must_use]
    pub fn input_queue() -> (mpsc::Sender<Input>, mpsc::Receiver<Input>) {
        mpsc::channel(QUEUE)
    }
}

fn start_request(command: &Command, pty: Option<PtySize>) -> wire::StartRequest {
    let config = wire::ProcessConfig {
        cmd: command.cmd.clone(),
        args: command.args.clone(),
        envs: command.envs.clone().into_iter().collect(),
        cwd: command.cwd.clone(),
        ..Default::default()
    };
    wire::StartRequest {
        process: Some(config).into(),
        pty: pty.map(terminal).into(),
        tag: command.tag.clone(),
        stdin: Some(command.stdin),
        ..Default::default()
    }
}

fn terminal(size: PtySize) -> wire::PTY {
    let size = wire::pty::Size { cols: size.cols, rows: size.rows, ..Default::default() };
    wire::PTY { size: Some(size).into(), ..Default::default() }
}

fn selector<P: buffa::ProtoBox<wire::ProcessSelector>>(
    process: &Selector,
) -> buffa::MessageField<wire::ProcessSelector, P> {
    let selector = match process {
        Selector::Pid(pid) => wire::process_selector::Selector::Pid(*pid),
        Selector::Tag(tag) => wire::process_selector::Selector::Tag(tag.clone()),
    };
    buffa::MessageField::some(wire::ProcessSelector { selector: Some(selector), ..Default::default() })
}

type Received = Result<Option<Option<wire::ProcessEvent>>, connectrpc::ConnectError>;

/// What a received message means (nothing, for a keep-alive), and whether it is the last; `None` = end of stream.
fn step(message: Received) -> Option<(Result<Option<ProcessEvent>, Error>, bool)> {
    match message {
        Ok(None) => None,
        Ok(Some(event)) => Some((Ok(event.and_then(|event| event.event).and_then(meaning)), false)),
        Err(error) => Some((Err(hostlink::error(&error)), true)),
    }
}

fn meaning(event: process_event::Event) -> Option<ProcessEvent> {
    use process_event::Event;
    match event {
        Event::Start(start) => Some(ProcessEvent::Start { pid: start.pid }),
        Event::Data(data) => data.output.map(|output| match output {
            Output::Stdout(bytes) => ProcessEvent::Stdout(bytes.into()),
            Output::Stderr(bytes) => ProcessEvent::Stderr(bytes.into()),
            Output::Pty(bytes) => ProcessEvent::Pty(bytes.into()),
        }),
        Event::End(end) => Some(ProcessEvent::End { exit_code: end.exit_code, error: end.error }),
        Event::Keepalive(_) => None,
    }
}

/// The next input with those of its kind that wait behind it, and the one that did not fit.
async fn coalesced(queue: &mut mpsc::Receiver<Input>, held: Option<Input>) -> Option<(Input, Option<Input>)> {
    let first = match held {
        Some(input) => input,
        None => queue.recv().await?,
    };
    let (Input::Stdin(bytes) | Input::Pty(bytes)) = &first;
    let mut joined = BytesMut::from(&bytes[..]);
    let mut held = None;
    while let Ok(next) = queue.try_recv() {
        match (&first, &next) {
            (Input::Stdin(_), Input::Stdin(more)) | (Input::Pty(_), Input::Pty(more))
                if joined.len() + more.len() <= CHUNK_BYTES_MAX =>
            {
                joined.extend_from_slice(more);
            }
            _ => {
                held = Some(next);
                break;
            }
        }
    }
    let joined = joined.freeze();
    let joined = if matches!(first, Input::Stdin(_)) { Input::Stdin(joined) } else { Input::Pty(joined) };
    Some((joined, held))
}

fn input_message(input: Input) -> agent::StreamInputRequest {
    let input = match input {
        Input::Stdin(bytes) => WireInput::Stdin(bytes.into()),
        Input::Pty(bytes) => WireInput::Pty(bytes.into()),
    };
    let data = wire::stream_input_request::DataEvent {
        input: Some(wire::ProcessInput { input: Some(input), ..Default::default() }).into(),
        ..Default::default()
    };
    let request = wire::StreamInputRequest { event: Some(data.into()), ..Default::default() };
    agent::StreamInputRequest { request: Some(request).into(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors() {
        for (text, want) in [
            ("12", Selector::Pid(12)),
            ("4294967296", Selector::Tag("4294967296".to_owned())),
            ("+1", Selector::Tag("+1".to_owned())),
            ("proc-1", Selector::Tag("proc-1".to_owned())),
            ("", Selector::Tag(String::new())),
        ] {
            assert_eq!(text.parse(), Ok(want));
        }
    }

    #[tokio::test]
    async fn waiting_input_is_joined_by_kind() {
        let (tx, mut rx) = Guest::input_queue();
        for input in [Input::Pty("a".into()), Input::Pty("b".into()), Input::Stdin("c".into())] {
            tx.send(input).await.unwrap();
        }
        drop(tx);
        let (first, held) = coalesced(&mut rx, None).await.unwrap();
        assert_eq!(first, Input::Pty("ab".into()));
        let (second, held) = coalesced(&mut rx, held).await.unwrap();
        assert_eq!((second, held), (Input::Stdin("c".into()), None));
        assert_eq!(coalesced(&mut rx, None).await, None);
    }
}
