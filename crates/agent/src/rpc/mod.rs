//! The agent's RPC service: parse, find the capsule, act, render. Nothing is decided here.

mod convert;
mod relay;

use crate::actor;
use crate::failure::Failure;
use crate::handle::How;
use crate::host::Host;
use crate::operations;
use crate::record::{Identity, Place, Record};
use crate::registry::Registry;
use crate::shared::{Lease, now_ms};
use crate::snapshots::{SnapshotWish, Taken};
use connectrpc::{
    ConnectError, ErrorCode, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
    StreamMessage,
};
use convert::{class, identifier, lifetime, sandbox, snapshot, target};
use guestlink::{options, stream_options, timed_options};
use lifecycle::agent::Command;
use model::{CapsuleId, CapsuleStatus};
use network::Policy;
use proto::hostagent::v1 as wire;
use proto::{filesystem, process};
use std::sync::Arc;
use std::time::Duration;

/// `hostagent.v1.HostAgentService` over the capsules of this host.
pub struct Service {
    /// The host they run on.
    pub host: Arc<Host>,
    /// The capsules.
    pub registry: Registry,
}

impl Service {
    async fn lease(&self, id: &str) -> Result<Lease, ConnectError> {
        let handle = self.registry.get(identifier(id)?)?;
        Ok(handle.shared.lease(model::limits::HOLD).await?)
    }

    async fn command(&self, id: &str, command: Command) -> Result<wire::Sandbox, Failure> {
        let handle = self.registry.get(identifier(id)?)?;
        let view = handle.ask(command, How::default()).await?;
        Ok(sandbox(&self.host, &view, handle.shared.last_active_ms()))
    }

    async fn create(&self, request: wire::CreateSandboxRequest) -> Result<wire::CreateSandboxResponse, ConnectError> {
        let id = identifier(&request.sandbox_id)?;
        if self.registry.get(id).is_err() {
            self.host.drain.admit()?;
        }
        let record = self.new_record(id, &request)?;
        let (reply, answer) = tokio::sync::oneshot::channel();
        let make = || actor::create(&self.host, &self.registry, record, reply);
        let (handle, new) = self.registry.get_or_insert(id, make)?;
        // A repeated create waits for the same start.
        let view = if new { answer.await.map_err(|_| Failure::Stopping)?? } else { handle.join().await? };
        let steps = view.laps.as_ref().filter(|_| new).map(|laps| convert::steps(laps)).unwrap_or_default();
        let sandbox = sandbox(&self.host, &view, handle.shared.last_active_ms()).into();
        Ok(wire::CreateSandboxResponse { sandbox, steps, ..Default::default() })
    }

    fn new_record(&self, id: CapsuleId, request: &wire::CreateSandboxRequest) -> Result<Record, Failure> {
        let told = request.identity.as_option().cloned().unwrap_or_default();
        let access_token = match told.access_token.as_str() {
            "" => crate::host::random_token(),
            token => token.to_owned(),
        };
        Ok(Record {
            id,
            class: class(request)?,
            snapshot: (!request.snapshot_id.is_empty()).then(|| snapshot(&request.snapshot_id)).transpose()?,
            disk_size_mb: request.disk_size_mb,
            lifetime: lifetime(request.lifetime.as_option()),
            identity: Identity {
                default_user: told.default_user,
                default_workdir: told.default_workdir,
                envs: told.envs.into_iter().collect(),
                access_token,
            },
            egress: convert::egress(request.egress.as_option())?.unwrap_or_else(|| Policy::default().into()),
            created_unix_ms: now_ms(),
            versions: self.host.versions(),
            reason: None,
            place: Place::Lost,
        })
    }
}

#[allow(refining_impl_trait)]
impl wire::HostAgentService for Service {
    async fn get_host(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, wire::GetHostRequest>,
    ) -> ServiceResult<wire::GetHostResponse> {
        Response::ok(convert::host(&self.host))
    }

    async fn set_draining(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::SetDrainingRequest>,
    ) -> ServiceResult<wire::SetDrainingResponse> {
        self.host.set_draining(request.draining).await?;
        let with_vm = |status: CapsuleStatus| status == CapsuleStatus::Running || status.is_transient();
        let running = self.registry.all().iter().filter(|handle| with_vm(handle.shared.view().status)).count();
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        Response::ok(wire::SetDrainingResponse { running, ..Default::default() })
    }

    async fn create_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::CreateSandboxRequest>,
    ) -> ServiceResult<wire::CreateSandboxResponse> {
        Response::ok(self.create(request.to_owned_message()).await?)
    }

    async fn pause_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::PauseSandboxRequest>,
    ) -> ServiceResult<wire::PauseSandboxResponse> {
        let handle = self.registry.get(identifier(request.sandbox_id)?)?;
        let how = How { discard_memory: request.discard_memory, ..How::default() };
        let view = handle.ask(Command::Pause, how).await?;
        let sandbox = sandbox(&self.host, &view, handle.shared.last_active_ms());
        Response::ok(wire::PauseSandboxResponse { sandbox: sandbox.into(), ..Default::default() })
    }

    async fn resume_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::ResumeSandboxRequest>,
    ) -> ServiceResult<wire::ResumeSandboxResponse> {
        let request = request.to_owned_message();
        let handle = self.registry.get(identifier(&request.sandbox_id)?)?;
        if handle.shared.view().status == CapsuleStatus::Paused {
            self.host.drain.admit()?;
        }
        let how = How {
            lifetime: request.lifetime.as_option().map(|wish| lifetime(Some(wish))),
            egress: convert::egress(request.egress.as_option())?,
            discard_memory: request.discard_memory,
        };
        let view = handle.ask(Command::Resume, how).await?;
        let sandbox = sandbox(&self.host, &view, handle.shared.last_active_ms());
        Response::ok(wire::ResumeSandboxResponse { sandbox: sandbox.into(), ..Default::default() })
    }

    async fn destroy_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::DestroySandboxRequest>,
    ) -> ServiceResult<wire::DestroySandboxResponse> {
        match self.command(request.sandbox_id, Command::Destroy).await {
            Err(Failure::Damaged(id)) => operations::forget_damaged(&self.host, &self.registry, id).await?,
            destroyed => drop(destroyed?),
        }
        Response::ok(wire::DestroySandboxResponse::default())
    }

    async fn snapshot_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::SnapshotSandboxRequest>,
    ) -> ServiceResult<wire::SnapshotSandboxResponse> {
        let handle = self.registry.get(identifier(request.sandbox_id)?)?;
        let wish = SnapshotWish { id: snapshot(request.snapshot_id)?, discard_memory: request.discard_memory };
        let Taken { standstill, size_bytes } = handle.snapshot(wish).await?;
        Response::ok(wire::SnapshotSandboxResponse {
            standstill_us: convert::us(standstill.whole),
            taking_us: convert::us(standstill.taking),
            size_bytes,
            ..Default::default()
        })
    }

    async fn delete_snapshot(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::DeleteSnapshotRequest>,
    ) -> ServiceResult<wire::DeleteSnapshotResponse> {
        operations::forget_snapshot(&self.host, snapshot(request.snapshot_id)?).await?;
        Response::ok(wire::DeleteSnapshotResponse::default())
    }

    async fn list_sandboxes(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, wire::ListSandboxesRequest>,
    ) -> ServiceResult<wire::ListSandboxesResponse> {
        let handles = self.registry.all();
        let sandboxes = handles.iter().map(|h| sandbox(&self.host, &h.shared.view(), h.shared.last_active_ms()));
        let sandboxes = sandboxes.chain(self.registry.damaged().into_iter().map(convert::damaged)).collect();
        Response::ok(wire::ListSandboxesResponse { sandboxes, ..Default::default() })
    }

    async fn ping_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::PingSandboxRequest>,
    ) -> ServiceResult<wire::PingSandboxResponse> {
        // Giving the lease back at once is the activity.
        drop(self.registry.get(identifier(request.sandbox_id)?)?.shared.lease(Duration::ZERO).await?);
        Response::ok(wire::PingSandboxResponse::default())
    }

    async fn set_lifetime(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::SetLifetimeRequest>,
    ) -> ServiceResult<wire::SetLifetimeResponse> {
        let request = request.to_owned_message();
        let handle = self.registry.get(identifier(&request.sandbox_id)?)?;
        handle.set_lifetime(lifetime(request.lifetime.as_option())).await?;
        Response::ok(wire::SetLifetimeResponse::default())
    }

    async fn set_egress(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::SetEgressRequest>,
    ) -> ServiceResult<wire::SetEgressResponse> {
        let request = request.to_owned_message();
        let handle = self.registry.get(identifier(&request.sandbox_id)?)?;
        let egress = convert::egress(request.egress.as_option())?.ok_or_else(|| missing("egress"))?;
        handle.set_egress(egress).await?;
        Response::ok(wire::SetEgressResponse::default())
    }

    async fn get_sandbox_metrics(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::GetSandboxMetricsRequest>,
    ) -> ServiceResult<wire::GetSandboxMetricsResponse> {
        let id = identifier(request.sandbox_id)?;
        self.registry.get(id)?;
        let window = Duration::from_millis(request.window_ms);
        let points = self.host.metrics.points(&self.host.records, id, window).await;
        let points = points.iter().map(convert::point).collect();
        Response::ok(wire::GetSandboxMetricsResponse { points, ..Default::default() })
    }

    async fn start_process(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::StartProcessRequest>,
    ) -> ServiceResult<ServiceStream<StreamMessage<process::StartResponse>>> {
        let request = request.to_owned_message();
        let to = target(request.target.as_option())?;
        let lease = self.lease(&to.sandbox_id).await?;
        let options = match request.timeout_ms {
            0 => stream_options(&to.user),
            // To the guest daemon a deadline is the life of the process.
            ms => stream_options(&to.user).with_timeout(Duration::from_millis(ms)),
        };
        let call = lease.guest.envd.process().start_with_options(relay::required(request.request)?, options);
        let started = relay::until_gone(&lease, call).await?;
        Ok(relay::server_stream(started, lease))
    }

    async fn connect_process(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::ConnectProcessRequest>,
    ) -> ServiceResult<ServiceStream<StreamMessage<process::ConnectResponse>>> {
        let request = request.to_owned_message();
        let to = target(request.target.as_option())?;
        let lease = self.lease(&to.sandbox_id).await?;
        let process = lease.guest.envd.process();
        let call = process.connect_with_options(relay::required(request.request)?, stream_options(&to.user));
        let connected = relay::until_gone(&lease, call).await?;
        Ok(relay::server_stream(connected, lease))
    }

    async fn list_processes(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::ListProcessesRequest>,
    ) -> ServiceResult<process::ListResponse> {
        let request = request.to_owned_message();
        let to = target(request.target.as_option())?;
        let lease = self.lease(&to.sandbox_id).await?;
        let call =
            lease.guest.envd.process().list_with_options(process::ListRequest::default(), timed_options(&to.user));
        Response::ok(relay::until_gone(&lease, call).await?.into_owned())
    }

    async fn update_process(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::UpdateProcessRequest>,
    ) -> ServiceResult<process::UpdateResponse> {
        relay::unary!(self, request, process, update_with_options)
    }

    async fn send_input(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::SendInputRequest>,
    ) -> ServiceResult<process::SendInputResponse> {
        relay::unary!(self, request, process, send_input_with_options)
    }

    async fn stream_input(
        &self,
        _: RequestContext,
        requests: InboundStream<wire::StreamInputRequest>,
    ) -> ServiceResult<process::StreamInputResponse> {
        let (to, input) = relay::split_input(requests).await?;
        let lease = self.lease(&to.sandbox_id).await?;
        let call = lease.guest.envd.process().stream_input_with_options(input, options(&to.user));
        Response::ok(relay::until_gone(&lease, call).await?.into_owned())
    }

    async fn send_signal(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::SendSignalRequest>,
    ) -> ServiceResult<process::SendSignalResponse> {
        relay::unary!(self, request, process, send_signal_with_options)
    }

    async fn close_stdin(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::CloseStdinRequest>,
    ) -> ServiceResult<process::CloseStdinResponse> {
        relay::unary!(self, request, process, close_stdin_with_options)
    }

    async fn stat(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::StatRequest>,
    ) -> ServiceResult<filesystem::StatResponse> {
        relay::unary!(self, request, filesystem, stat_with_options)
    }

    async fn list_dir(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::ListDirRequest>,
    ) -> ServiceResult<filesystem::ListDirResponse> {
        relay::unary!(self, request, filesystem, list_dir_with_options)
    }

    async fn make_dir(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::MakeDirRequest>,
    ) -> ServiceResult<filesystem::MakeDirResponse> {
        relay::unary!(self, request, filesystem, make_dir_with_options)
    }

    async fn r#move(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::MoveRequest>,
    ) -> ServiceResult<filesystem::MoveResponse> {
        relay::unary!(self, request, filesystem, move_with_options)
    }

    async fn remove(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::RemoveRequest>,
    ) -> ServiceResult<filesystem::RemoveResponse> {
        relay::unary!(self, request, filesystem, remove_with_options)
    }

    async fn read_file(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::ReadFileRequest>,
    ) -> ServiceResult<ServiceStream<wire::ReadFileResponse>> {
        let request = request.to_owned_message();
        let to = target(request.target.as_option())?;
        let lease = self.lease(&to.sandbox_id).await?;
        relay::read_file(lease, &request.path, &to.user).await
    }

    async fn write_file(
        &self,
        _: RequestContext,
        requests: InboundStream<wire::WriteFileRequest>,
    ) -> ServiceResult<wire::WriteFileResponse> {
        let (meta, chunks) = relay::split_file(requests).await?;
        let to = target(meta.target.as_option())?;
        let lease = self.lease(&to.sandbox_id).await?;
        let written = lease.guest.envd.write_file(&meta.path, &to.user, chunks);
        let gone = lease.guest.gone.cancelled();
        tokio::select! {
            result = written => result.map_err(|error| relay::file_error(&error))?,
            () = gone => return Err(relay::gone()),
        }
        Response::ok(wire::WriteFileResponse::default())
    }
}

/// A message part that must be there.
fn missing(what: &str) -> ConnectError {
    ConnectError::new(ErrorCode::InvalidArgument, format!("`{what}` is missing"))
}
