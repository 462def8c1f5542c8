//! An agent without VMs that fails as it is told to: answers get lost, calls are refused or hang.
#![allow(refining_impl_trait)]

use connectrpc::{
    ConnectError, ErrorCode, InboundStream, RequestContext, Response, Router, ServiceRequest, ServiceResult,
    ServiceStream,
};
use futures_util::{StreamExt, stream};
use proto::filesystem;
use proto::hostagent::v1::write_file_request::Content;
use proto::hostagent::v1::{self as wire, HostAgentService};
use proto::process::{self, process_event};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};

/// What goes wrong with one call.
pub enum Fault {
    /// The work is done, but the answer is lost.
    LostAnswer,
    /// Nothing is done; the answer is this.
    Refused(ErrorCode),
    /// Nothing is done before a permit is there.
    Held(Arc<Semaphore>),
}

/// What the agent has.
#[derive(Default)]
pub struct World {
    pub sandboxes: BTreeMap<String, wire::Sandbox>,
    pub identities: BTreeMap<String, wire::Identity>,
    pub files: BTreeMap<String, Vec<u8>>,
    pub created: usize,
    /// Snapshots there are, and those that were.
    pub snapshots: Vec<String>,
    pub forgotten: Vec<String>,
    pub killed: Vec<u32>,
    /// What every sandbox used, and how far back was asked for last.
    pub metrics: Vec<wire::MetricPoint>,
    pub window_ms: u64,
    pub draining: bool,
    faults: HashMap<&'static str, VecDeque<Fault>>,
}

/// The agent. Clones are the same one.
#[derive(Clone)]
pub struct Agent {
    world: Arc<Mutex<World>>,
    changed: watch::Sender<()>,
    kill: Arc<Semaphore>,
}

/// A process of its own, as far as connections are concerned.
pub struct Serving(Option<tokio::runtime::Runtime>);

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl World {
    /// Whether every fault asked for has met its call.
    pub fn no_fault_waits(&self) -> bool {
        self.faults.values().all(VecDeque::is_empty)
    }
}

impl Agent {
    pub fn new() -> Self {
        Self { world: Arc::default(), changed: watch::Sender::new(()), kill: Arc::new(Semaphore::new(0)) }
    }

    /// Serves until the answer is dropped; then every connection breaks.
    pub fn serve(&self, socket: &Path) -> Serving {
        let _ = std::fs::remove_file(socket);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(socket).unwrap()
        };
        let service = Router::new().add_service(Arc::new(self.clone())).into_axum_service();
        let app = axum::Router::new().fallback_service(service);
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Serving(Some(runtime))
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// The next calls of this method go wrong like this, one each.
    pub fn fail(&self, method: &'static str, faults: impl IntoIterator<Item = Fault>) {
        self.world().faults.entry(method).or_default().extend(faults);
    }

    /// Waits until the agent's world is so.
    pub async fn until(&self, holds: impl Fn(&World) -> bool) {
        let mut changed = self.changed.subscribe();
        while !holds(&self.world()) {
            changed.changed().await.unwrap();
        }
    }

    async fn call<T>(
        &self,
        method: &'static str,
        work: impl FnOnce(&mut World) -> ServiceResult<T>,
    ) -> ServiceResult<T> {
        let fault = self.world().faults.get_mut(method).and_then(VecDeque::pop_front);
        self.changed.send_replace(());
        match fault {
            Some(Fault::Refused(code)) => return Err(ConnectError::new(code, "refused by the test")),
            Some(Fault::Held(gate)) => gate.acquire().await.unwrap().forget(),
            Some(Fault::LostAnswer) => {
                let _ = work(&mut self.world());
                self.changed.send_replace(());
                return Err(ConnectError::new(ErrorCode::Unavailable, "lost by the test"));
            }
            None => {}
        }
        let answer = work(&mut self.world());
        self.changed.send_replace(());
        answer
    }
}

fn gone() -> ConnectError {
    ConnectError::new(ErrorCode::NotFound, "sandbox not found")
}

fn set(world: &mut World, id: &str, status: &str) -> Result<wire::Sandbox, ConnectError> {
    let sandbox = world.sandboxes.get_mut(id).ok_or_else(gone)?;
    status.clone_into(&mut sandbox.status);
    Ok(sandbox.clone())
}

macro_rules! absent {
    ($($name:ident($request:ty) -> $answer:ty;)*) => {
        $(async fn $name(&self, _: RequestContext, _: ServiceRequest<'_, $request>) -> ServiceResult<$answer> {
            Err(ConnectError::unimplemented("not in this test"))
        })*
    };
}

impl HostAgentService for Agent {
    async fn get_host(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, wire::GetHostRequest>,
    ) -> ServiceResult<wire::GetHostResponse> {
        let (snapshots, draining) = {
            let world = self.world();
            (world.snapshots.clone(), world.draining)
        };
        let host = wire::GetHostResponse {
            snapshots,
            draining,
            isolation: "test".to_owned(),
            arch: "x86_64".to_owned(),
            cpu_cores: 8,
            memory_mb: 65_536,
            disk_mb: 1_000_000,
            ..Default::default()
        };
        self.call("get_host", |_| Response::ok(host)).await
    }

    async fn create_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::CreateSandboxRequest>,
    ) -> ServiceResult<wire::CreateSandboxResponse> {
        let request = request.to_owned_message();
        self.call("create", |world| {
            if !request.snapshot_id.is_empty() && !world.snapshots.contains(&request.snapshot_id) {
                return Err(ConnectError::not_found("no such snapshot"));
            }
            if !world.sandboxes.contains_key(&request.sandbox_id) {
                world.created += 1;
            }
            let identity = request.identity.into_option().unwrap_or_default();
            world.identities.insert(request.sandbox_id.clone(), identity);
            let sandbox = wire::Sandbox {
                sandbox_id: request.sandbox_id.clone(),
                status: "running".to_owned(),
                isolation: "test".to_owned(),
                lifetime: request.lifetime,
                egress: request.egress,
                versions: [("envd_version".to_owned(), "1".to_owned())].into_iter().collect(),
                ..Default::default()
            };
            world.sandboxes.insert(request.sandbox_id, sandbox.clone());
            Response::ok(wire::CreateSandboxResponse { sandbox: Some(sandbox).into(), ..Default::default() })
        })
        .await
    }

    async fn pause_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::PauseSandboxRequest>,
    ) -> ServiceResult<wire::PauseSandboxResponse> {
        let id = request.sandbox_id.to_owned();
        self.call("pause", |world| {
            let sandbox = set(world, &id, "paused")?;
            Response::ok(wire::PauseSandboxResponse { sandbox: Some(sandbox).into(), ..Default::default() })
        })
        .await
    }

    async fn snapshot_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::SnapshotSandboxRequest>,
    ) -> ServiceResult<wire::SnapshotSandboxResponse> {
        let request = request.to_owned_message();
        self.call("snapshot", |world| {
            world.sandboxes.get(&request.sandbox_id).ok_or_else(gone)?;
            world.snapshots.push(request.snapshot_id);
            Response::ok(wire::SnapshotSandboxResponse { size_bytes: 4_096, ..Default::default() })
        })
        .await
    }

    async fn delete_snapshot(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::DeleteSnapshotRequest>,
    ) -> ServiceResult<wire::DeleteSnapshotResponse> {
        let id = request.snapshot_id.to_owned();
        self.call("delete snapshot", |world| {
            world.snapshots.retain(|snapshot| *snapshot != id);
            world.forgotten.push(id);
            Response::ok(wire::DeleteSnapshotResponse::default())
        })
        .await
    }

    async fn resume_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::ResumeSandboxRequest>,
    ) -> ServiceResult<wire::ResumeSandboxResponse> {
        let request = request.to_owned_message();
        self.call("resume", |world| {
            let sandbox = set(world, &request.sandbox_id, "running")?;
            if let Some(known) = world.sandboxes.get_mut(&request.sandbox_id) {
                known.lifetime = request.lifetime;
                known.egress = request.egress;
            }
            Response::ok(wire::ResumeSandboxResponse { sandbox: Some(sandbox).into(), ..Default::default() })
        })
        .await
    }

    async fn destroy_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::DestroySandboxRequest>,
    ) -> ServiceResult<wire::DestroySandboxResponse> {
        let id = request.sandbox_id.to_owned();
        self.call("destroy", |world| {
            world.sandboxes.remove(&id).ok_or_else(gone)?;
            Response::ok(wire::DestroySandboxResponse::default())
        })
        .await
    }

    async fn list_sandboxes(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, wire::ListSandboxesRequest>,
    ) -> ServiceResult<wire::ListSandboxesResponse> {
        self.call("list", |world| {
            let sandboxes = world.sandboxes.values().cloned().collect();
            Response::ok(wire::ListSandboxesResponse { sandboxes, ..Default::default() })
        })
        .await
    }

    async fn ping_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::PingSandboxRequest>,
    ) -> ServiceResult<wire::PingSandboxResponse> {
        let id = request.sandbox_id.to_owned();
        self.call("ping", |world| match world.sandboxes.get(&id) {
            Some(sandbox) if sandbox.status == "running" => Response::ok(wire::PingSandboxResponse::default()),
            Some(_) => Err(ConnectError::failed_precondition("not running")),
            None => Err(gone()),
        })
        .await
    }

    async fn set_lifetime(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::SetLifetimeRequest>,
    ) -> ServiceResult<wire::SetLifetimeResponse> {
        let request = request.to_owned_message();
        self.call("set_lifetime", |world| {
            world.sandboxes.get_mut(&request.sandbox_id).ok_or_else(gone)?.lifetime = request.lifetime;
            Response::ok(wire::SetLifetimeResponse::default())
        })
        .await
    }

    async fn set_egress(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::SetEgressRequest>,
    ) -> ServiceResult<wire::SetEgressResponse> {
        let request = request.to_owned_message();
        self.call("set_egress", |world| {
            world.sandboxes.get_mut(&request.sandbox_id).ok_or_else(gone)?.egress = request.egress;
            Response::ok(wire::SetEgressResponse::default())
        })
        .await
    }

    async fn get_sandbox_metrics(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::GetSandboxMetricsRequest>,
    ) -> ServiceResult<wire::GetSandboxMetricsResponse> {
        let (id, window_ms) = (request.sandbox_id.to_owned(), request.window_ms);
        self.call("metrics", |world| {
            world.sandboxes.get(&id).ok_or_else(gone)?;
            world.window_ms = window_ms;
            Response::ok(wire::GetSandboxMetricsResponse { points: world.metrics.clone(), ..Default::default() })
        })
        .await
    }

    /// `emit N` writes N bytes to each output; `hang` runs until it is killed.
    async fn start_process(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::StartProcessRequest>,
    ) -> ServiceResult<ServiceStream<process::StartResponse>> {
        let request = request.to_owned_message();
        let config = request.request.into_option().unwrap_or_default().process.into_option().unwrap_or_default();
        let start = event(process_event::StartEvent { pid: 42, ..Default::default() });
        if config.cmd == "hang" {
            let kill = Arc::clone(&self.kill);
            let end = stream::once(async move {
                kill.acquire().await.unwrap().forget();
                Ok(ended(-1))
            });
            return Response::stream_ok(stream::iter([Ok(start)]).chain(end));
        }
        let bytes: usize = config.args[0].parse().unwrap();
        let outputs = [
            process_event::data_event::Output::Stdout(vec![b'o'; bytes]),
            process_event::data_event::Output::Stderr(vec![b'e'; bytes]),
        ];
        let data = outputs.map(|output| event(process_event::DataEvent { output: Some(output), ..Default::default() }));
        let events: Vec<_> = std::iter::once(start).chain(data).chain([ended(7)]).map(Ok).collect();
        Response::stream_ok(stream::iter(events))
    }

    async fn send_signal(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::SendSignalRequest>,
    ) -> ServiceResult<process::SendSignalResponse> {
        let request = request.to_owned_message().request.into_option().unwrap_or_default();
        let Some(process::process_selector::Selector::Pid(pid)) =
            request.process.into_option().unwrap_or_default().selector
        else {
            return Err(ConnectError::new(ErrorCode::NotFound, "process not found"));
        };
        self.kill.add_permits(1);
        self.call("signal", |world| {
            world.killed.push(pid);
            Response::ok(process::SendSignalResponse::default())
        })
        .await
    }

    async fn read_file(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, wire::ReadFileRequest>,
    ) -> ServiceResult<ServiceStream<wire::ReadFileResponse>> {
        let content = self.world().files.get(request.path).cloned();
        let content = content.ok_or_else(|| ConnectError::new(ErrorCode::NotFound, "no such file"))?;
        let chunks: Vec<_> = content
            .chunks(64 << 10)
            .map(|chunk| Ok(wire::ReadFileResponse { chunk: chunk.to_vec(), ..Default::default() }))
            .collect();
        Response::stream_ok(stream::iter(chunks))
    }

    /// A file is there when its stream has ended, and not before.
    async fn write_file(
        &self,
        _: RequestContext,
        mut requests: InboundStream<wire::WriteFileRequest>,
    ) -> ServiceResult<wire::WriteFileResponse> {
        let (mut path, mut content) = (String::new(), Vec::new());
        while let Some(message) = requests.next().await {
            match message?.to_owned_message().content {
                Some(Content::Meta(meta)) => path = meta.path,
                Some(Content::Chunk(chunk)) => content.extend(chunk),
                None => return Err(ConnectError::invalid_argument("empty")),
            }
        }
        self.call("write", |world| {
            world.files.insert(path, content);
            Response::ok(wire::WriteFileResponse::default())
        })
        .await
    }

    async fn connect_process(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, wire::ConnectProcessRequest>,
    ) -> ServiceResult<ServiceStream<process::ConnectResponse>> {
        Err(ConnectError::unimplemented("not in this test"))
    }

    async fn stream_input(
        &self,
        _: RequestContext,
        _: InboundStream<wire::StreamInputRequest>,
    ) -> ServiceResult<process::StreamInputResponse> {
        Err(ConnectError::unimplemented("not in this test"))
    }

    absent! {
        set_draining(wire::SetDrainingRequest) -> wire::SetDrainingResponse;
        list_processes(wire::ListProcessesRequest) -> process::ListResponse;
        update_process(wire::UpdateProcessRequest) -> process::UpdateResponse;
        send_input(wire::SendInputRequest) -> process::SendInputResponse;
        close_stdin(wire::CloseStdinRequest) -> process::CloseStdinResponse;
        stat(wire::StatRequest) -> filesystem::StatResponse;
        list_dir(wire::ListDirRequest) -> filesystem::ListDirResponse;
        make_dir(wire::MakeDirRequest) -> filesystem::MakeDirResponse;
        r#move(wire::MoveRequest) -> filesystem::MoveResponse;
        remove(wire::RemoveRequest) -> filesystem::RemoveResponse;
    }
}

fn event(event: impl Into<process_event::Event>) -> process::StartResponse {
    let event = process::ProcessEvent { event: Some(event.into()), ..Default::default() };
    process::StartResponse { event: Some(event).into(), ..Default::default() }
}

fn ended(exit_code: i32) -> process::StartResponse {
    event(process_event::EndEvent { exit_code, exited: exit_code >= 0, ..Default::default() })
}
