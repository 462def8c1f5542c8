//! The RPC service `filesystem.Filesystem`.

use std::path::PathBuf;
use std::sync::Arc;

use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use http::HeaderMap;
use proto::filesystem::{
    CreateWatcherRequest, CreateWatcherResponse, Filesystem as Rpc, GetWatcherEventsRequest, GetWatcherEventsResponse,
    ListDirRequest, ListDirResponse, MakeDirRequest, MakeDirResponse, MoveRequest, MoveResponse, RemoveRequest,
    RemoveResponse, RemoveWatcherRequest, RemoveWatcherResponse, StatRequest, StatResponse, WatchDirRequest,
    WatchDirResponse,
};

use super::error::FsError;
use super::operations;
use super::watch::{self, Watch, What};
use crate::daemon::{Daemon, blocking};
use crate::paths;
use crate::stream::keepalive_interval;
use crate::users::User;

/// Serves [`Rpc`].
pub struct FilesystemService {
    daemon: Arc<Daemon>,
}

/// What paths of one request mean.
struct Caller {
    user: User,
    workdir: Option<PathBuf>,
}

impl Caller {
    fn path(&self, path: &str) -> Result<PathBuf, FsError> {
        Ok(paths::resolve(path, &self.user.home, self.workdir.as_deref())?)
    }
}

impl FilesystemService {
    /// For this daemon.
    pub fn new(daemon: Arc<Daemon>) -> Self {
        Self { daemon }
    }

    /// Does blocking work as the caller of a request.
    async fn work<T: Send + 'static>(
        &self,
        headers: &HeaderMap,
        work: impl FnOnce(&Caller) -> Result<T, FsError> + Send + 'static,
    ) -> Result<T, ConnectError> {
        let (daemon, headers) = (Arc::clone(&self.daemon), headers.clone());
        blocking(move || {
            let user = daemon.caller(&headers)?;
            let workdir = daemon.settings.read(|settings| settings.workdir.clone());
            Ok(work(&Caller { user, workdir })?)
        })
        .await
    }
}

#[expect(refining_impl_trait, reason = "the exact type is the clearer signature")]
impl Rpc for FilesystemService {
    async fn stat(&self, ctx: RequestContext, request: ServiceRequest<'_, StatRequest>) -> ServiceResult<StatResponse> {
        let path = request.path.to_owned();
        let entry = self.work(ctx.headers(), move |caller| operations::stat(&caller.path(&path)?)).await?;
        Response::ok(StatResponse { entry: entry.into(), ..Default::default() })
    }

    async fn make_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MakeDirRequest>,
    ) -> ServiceResult<MakeDirResponse> {
        let path = request.path.to_owned();
        let entry =
            self.work(ctx.headers(), move |caller| operations::make_dir(&caller.path(&path)?, &caller.user)).await?;
        Response::ok(MakeDirResponse { entry: entry.into(), ..Default::default() })
    }

    async fn r#move(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MoveRequest>,
    ) -> ServiceResult<MoveResponse> {
        let (source, destination) = (request.source.to_owned(), request.destination.to_owned());
        let entry = self
            .work(ctx.headers(), move |caller| {
                operations::rename(&caller.path(&source)?, &caller.path(&destination)?, &caller.user)
            })
            .await?;
        Response::ok(MoveResponse { entry: entry.into(), ..Default::default() })
    }

    async fn list_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ListDirRequest>,
    ) -> ServiceResult<ListDirResponse> {
        let (path, depth) = (request.path.to_owned(), request.depth);
        let entries = self.work(ctx.headers(), move |caller| operations::list(&caller.path(&path)?, depth)).await?;
        Response::ok(ListDirResponse { entries, ..Default::default() })
    }

    async fn remove(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, RemoveRequest>,
    ) -> ServiceResult<RemoveResponse> {
        let path = request.path.to_owned();
        self.work(ctx.headers(), move |caller| operations::remove(&caller.path(&path)?)).await?;
        Response::ok(RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<WatchDirResponse>> {
        let what = What {
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network_mounts: request.allow_network_mounts,
        };
        let path = request.path.to_owned();
        let watch = self.work(ctx.headers(), move |caller| Watch::open(caller.path(&path)?, what)).await?;
        Ok(Response::stream(watch::events(watch, keepalive_interval(ctx.headers()))))
    }

    async fn create_watcher(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, CreateWatcherRequest>,
    ) -> ServiceResult<CreateWatcherResponse> {
        let what = What {
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network_mounts: request.allow_network_mounts,
        };
        let path = request.path.to_owned();
        let watch = self.work(ctx.headers(), move |caller| Watch::open(caller.path(&path)?, what)).await?;
        let watcher_id = self.daemon.watchers.add(watch)?;
        Response::ok(CreateWatcherResponse { watcher_id, ..Default::default() })
    }

    async fn get_watcher_events(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, GetWatcherEventsRequest>,
    ) -> ServiceResult<GetWatcherEventsResponse> {
        let events = self.daemon.watchers.take(request.watcher_id).await?;
        Response::ok(GetWatcherEventsResponse { events, ..Default::default() })
    }

    async fn remove_watcher(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, RemoveWatcherRequest>,
    ) -> ServiceResult<RemoveWatcherResponse> {
        self.daemon.watchers.remove(request.watcher_id)?;
        Response::ok(RemoveWatcherResponse::default())
    }
}
