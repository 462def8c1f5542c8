//! The RPC service `process.Process`.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::{ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures_util::StreamExt as _;
use http::HeaderMap;
use proto::process::process_input::Input as Bytes;
use proto::process::process_selector::Selector;
use proto::process::stream_input_request::Event;
use proto::process::{
    CloseStdinRequest, CloseStdinResponse, ConnectRequest, ConnectResponse, ListRequest, ListResponse, Process as Rpc,
    ProcessInput, ProcessSelector, SendInputRequest, SendInputResponse, SendSignalRequest, SendSignalResponse, Signal,
    StartRequest, StartResponse, StreamInputRequest, StreamInputResponse, UpdateRequest, UpdateResponse,
};

use super::audience::Past;
use super::input::InputError;
use super::launch::{self, LaunchError};
use super::stream::events;
use super::{Process, SignalError};
use crate::daemon::{Daemon, blocking};
use crate::stream::keepalive_interval;

/// Serves [`Rpc`].
pub struct ProcessService {
    daemon: Arc<Daemon>,
}

impl ProcessService {
    /// For this daemon's processes.
    pub fn new(daemon: Arc<Daemon>) -> Self {
        Self { daemon }
    }

    fn find(&self, selector: Option<&ProcessSelector>) -> Result<Arc<Process>, ConnectError> {
        let selector = chosen(selector)?;
        self.daemon.processes.find(selector).ok_or_else(|| unknown(selector))
    }
}

#[expect(refining_impl_trait, reason = "the exact type is the clearer signature")]
impl Rpc for ProcessService {
    async fn list(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, ListRequest>,
    ) -> ServiceResult<ListResponse> {
        let processes = self.daemon.processes.all().iter().map(|process| process.info()).collect();
        Response::ok(ListResponse { processes, ..Default::default() })
    }

    async fn connect(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ConnectRequest>,
    ) -> ServiceResult<ServiceStream<ConnectResponse>> {
        let request = request.to_owned_message();
        let selector = chosen(request.process.as_option())?;
        let voice = self.daemon.processes.find_even_ended(selector).ok_or_else(|| unknown(selector))?;
        // A tag is the name somebody comes back by; a pid is known to whoever has seen what came before.
        let past = if matches!(selector, Selector::Tag(_)) { Past::Replayed } else { Past::Unheard };
        let news = voice.audience.join(past);
        let events = events(voice.pid, news, keepalive_interval(ctx.headers()));
        Ok(Response::stream(
            events.map(|event| event.map(|event| ConnectResponse { event: event.into(), ..Default::default() })),
        ))
    }

    async fn start(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, StartRequest>,
    ) -> ServiceResult<ServiceStream<StartResponse>> {
        let limit = time_limit(ctx.headers())?;
        let keepalive = keepalive_interval(ctx.headers());
        let (daemon, headers) = (Arc::clone(&self.daemon), ctx.headers().clone());
        let request = request.to_owned_message();
        // Once begun it is finished, even when the client leaves meanwhile.
        let launched = blocking(move || {
            let user = daemon.caller(&headers)?;
            launch::launch(&daemon, request, &user, limit).map_err(ConnectError::from)
        })
        .await?;
        let events = events(launched.pid, launched.news, keepalive);
        Ok(Response::stream(
            events.map(|event| event.map(|event| StartResponse { event: event.into(), ..Default::default() })),
        ))
    }

    async fn update(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, UpdateRequest>,
    ) -> ServiceResult<UpdateResponse> {
        let request = request.to_owned_message();
        let process = self.find(request.process.as_option())?;
        if let Some(pty) = request.pty.as_option() {
            let terminal = process.terminal.as_ref().ok_or_else(no_terminal)?;
            terminal.resize(pty).map_err(|error| ConnectError::internal(error.to_string()))?;
        }
        Response::ok(UpdateResponse::default())
    }

    async fn stream_input(
        &self,
        _ctx: RequestContext,
        mut requests: InboundStream<StreamInputRequest>,
    ) -> ServiceResult<StreamInputResponse> {
        let mut target = None;
        while let Some(request) = requests.next().await {
            match request?.to_owned_message().event {
                Some(Event::Start(start)) => target = Some(self.find(start.process.as_option())?),
                Some(Event::Data(data)) => {
                    let process = target
                        .as_ref()
                        .ok_or_else(|| ConnectError::failed_precondition("the first message must name the process"))?;
                    write(process, data.input.as_option()).await?;
                }
                Some(Event::Keepalive(_)) => {}
                None => return Err(ConnectError::invalid_argument("empty message")),
            }
        }
        Response::ok(StreamInputResponse::default())
    }

    async fn send_input(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, SendInputRequest>,
    ) -> ServiceResult<SendInputResponse> {
        let request = request.to_owned_message();
        let process = self.find(request.process.as_option())?;
        write(&process, request.input.as_option()).await?;
        Response::ok(SendInputResponse::default())
    }

    async fn send_signal(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, SendSignalRequest>,
    ) -> ServiceResult<SendSignalResponse> {
        let request = request.to_owned_message();
        let process = self.find(request.process.as_option())?;
        match request.signal.as_known() {
            Some(signal @ (Signal::Sigkill | Signal::Sigterm)) => process.signal(signal)?,
            _ => return Err(ConnectError::invalid_argument("the signal must be SIGKILL or SIGTERM")),
        }
        Response::ok(SendSignalResponse::default())
    }

    async fn close_stdin(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, CloseStdinRequest>,
    ) -> ServiceResult<CloseStdinResponse> {
        let request = request.to_owned_message();
        let process = self.find(request.process.as_option())?;
        if process.terminal.is_some() {
            return Err(ConnectError::failed_precondition("a terminal has no stdin to close; send byte 4 instead"));
        }
        process.input.close().await?;
        self.daemon.supervisor.close_input(process.held);
        Response::ok(CloseStdinResponse::default())
    }
}

async fn write(process: &Process, input: Option<&ProcessInput>) -> Result<(), ConnectError> {
    match (input.and_then(|input| input.input.as_ref()), &process.terminal) {
        (Some(Bytes::Stdin(_)), Some(_)) => {
            Err(ConnectError::failed_precondition("the process has a terminal: send pty input"))
        }
        (Some(Bytes::Stdin(bytes)), None) => Ok(process.input.write(bytes).await?),
        (Some(Bytes::Pty(bytes)), Some(terminal)) => {
            terminal.write_all(bytes).await.map_err(|error| ConnectError::internal(error.to_string()))
        }
        (Some(Bytes::Pty(_)), None) => Err(no_terminal()),
        (None, _) => Err(ConnectError::invalid_argument("no input given")),
    }
}

fn chosen(selector: Option<&ProcessSelector>) -> Result<&Selector, ConnectError> {
    selector
        .and_then(|selector| selector.selector.as_ref())
        .ok_or_else(|| ConnectError::invalid_argument("no process selected"))
}

fn unknown(selector: &Selector) -> ConnectError {
    ConnectError::not_found(match selector {
        Selector::Pid(pid) => format!("process with pid {pid} not found"),
        Selector::Tag(tag) => format!("process with tag '{tag}' not found"),
    })
}

fn no_terminal() -> ConnectError {
    ConnectError::failed_precondition("the process has no terminal")
}

/// The deadline of a `Start` is the longest the process may run; absent or 0 means no limit.
fn time_limit(headers: &HeaderMap) -> Result<Option<Duration>, ConnectError> {
    let Some(value) = headers.get("connect-timeout-ms") else { return Ok(None) };
    match value.to_str().ok().and_then(|text| text.parse::<u64>().ok()) {
        Some(0) => Ok(None),
        Some(ms) => Ok(Some(Duration::from_millis(ms))),
        None => Err(ConnectError::invalid_argument("Connect-Timeout-Ms is not a number of milliseconds")),
    }
}

impl From<LaunchError> for ConnectError {
    fn from(error: LaunchError) -> Self {
        let message = error.to_string();
        match error {
            LaunchError::TooMany => Self::resource_exhausted(message),
            LaunchError::Spawn(error)
                if matches!(error.kind(), std::io::ErrorKind::OutOfMemory | std::io::ErrorKind::WouldBlock) =>
            {
                Self::resource_exhausted(message)
            }
            LaunchError::NoProcess | LaunchError::Path(_) | LaunchError::NoCwd(_) | LaunchError::Spawn(_) => {
                Self::invalid_argument(message)
            }
        }
    }
}

impl From<SignalError> for ConnectError {
    fn from(error: SignalError) -> Self {
        match error {
            SignalError::Ended => Self::not_found(error.to_string()),
            SignalError::Kernel(_) => Self::internal(error.to_string()),
        }
    }
}

impl From<InputError> for ConnectError {
    fn from(error: InputError) -> Self {
        match error {
            InputError::None | InputError::Closed => Self::failed_precondition(error.to_string()),
            InputError::Io(_) => Self::internal(error.to_string()),
        }
    }
}
