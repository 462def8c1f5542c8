//! Start and end of an agent.

use crate::classes::Classes;
use crate::drain::Drain;
use crate::events::Outbox;
use crate::failure::Failure;
use crate::handle::How;
use crate::host::Host;
use crate::metrics::Metrics;
use crate::options::{Layout, Options, groups, runtime_dir};
use crate::proxy::Guests;
use crate::ready::Ready;
use crate::record::{Class, Records};
use crate::registry::Registry;
use crate::rpc::Service;
use crate::snapshots::{self, Snapshots};
use crate::space::Room;
use crate::tier::{NoVmm, Vmms};
use crate::{adopt, limits, space};
use axum::Router;
use axum::extract::{Request, State};
use axum::routing::any;
use futures_util::{StreamExt, stream};
use image::{Artifacts, Progress};
use keeper::Launcher;
use lifecycle::agent::Command;
use memory::Shelf;
use network::{Network, NetworkOptions, Orphans};
use proto::hostagent::v1::HostAgentServiceExt;
use rustix::fs::Mode;
use std::fs::Permissions;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vmm::{Tier, Vmm};

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error("cannot use {path}: {source}")]
    Directory {
        /// Which part of it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No place for disks.
    #[error(transparent)]
    Pool(#[from] disk::OpenError),
    /// Nothing to boot.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// No VMM.
    #[error("no virtual machine monitor: {0}")]
    Vmm(#[from] NoVmm),
    /// No network for guests.
    #[error(transparent)]
    Network(#[from] network::OpenError),
    /// The template cannot be booted.
    #[error("the template does not start: {0}")]
    Template(String),
}

fn directory(path: &Path) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Directory { path: path.to_owned(), source }
}

/// What [`prepare`] made ready.
pub struct Prepared {
    options: Options,
    pool: disk::Pool,
    artifacts: Artifacts,
    vmm: Arc<dyn Vmm>,
    vmms: Vec<Arc<dyn Vmm>>,
}

/// Opens the pool, makes what guests boot from and finds the VMM. Slow the first time; `progress` tells.
pub async fn prepare<P: Progress + Send + 'static>(mut options: Options, progress: P) -> Result<Prepared, StartError> {
    // VMMs that are nobody read what guests boot from; what is secret is made with modes of its own.
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    // VMMs run in directories of their own: every path they are told has to be absolute.
    options.dir = std::path::absolute(&options.dir).map_err(directory(&options.dir.clone()))?;
    let dir = options.dir.clone();
    std::fs::create_dir_all(dir.join("run")).map_err(directory(&dir))?;
    let (envd, source) = (options.envd.clone(), options.source.clone());
    let work = move || -> Result<_, StartError> {
        let pool = disk::Pool::open(&dir, &disk::PoolOptions::default())?;
        let wanted = image::Options {
            dir: pool.path().join("artifacts"),
            envd,
            source,
            root_disk_mb: image::DEFAULT_ROOT_DISK_MB,
        };
        Ok((pool, image::prepare(&wanted, &progress)?))
    };
    let prepared = tokio::task::spawn_blocking(work).await;
    let (pool, artifacts) = prepared.map_err(|error| directory(&options.dir)(io::Error::other(error)))??;
    let vmms = Vmms::find(&options.vmm);
    let vmm = vmms.choose(&artifacts.kernel_elf, &Layout(&options.dir).tier()).await?;
    Ok(Prepared { options, pool, artifacts, vmm, vmms: vmms.all() })
}

impl Prepared {
    /// `firecracker`, `qemu-kvm` or `qemu-tcg`.
    pub fn isolation(&self) -> String {
        self.vmm.tier().to_string()
    }
}

/// How an agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Every running capsule is saved first.
    PauseAll,
    /// Running capsules go on; the next agent finds them.
    Leave,
}

/// A running agent.
pub struct Agent {
    host: Arc<Host>,
    registry: Registry,
    listener: listen::Handle,
    socket: PathBuf,
}

impl Agent {
    /// Finds the capsules of an earlier agent and serves on the socket `run/agent.sock`.
    pub async fn start(prepared: Prepared) -> Result<Self, StartError> {
        let socket = Layout(&prepared.options.dir).socket();
        let callback = prepared.options.callback.clone();
        let registry = Registry::default();
        let host = open(prepared, &registry).await?;
        if let Some(callback) = callback {
            host.tasks.spawn(host.events.clone().deliver(callback, host.stopping.clone()));
        }
        host.tasks.spawn(host.metrics.clone().run(host.clone(), registry.clone()));
        host.tasks.spawn(space::watch(host.clone()));
        host.keeper_ahead();
        let listener = serve(&host, &registry, &socket).map_err(directory(&socket))?;
        Ok(Self { host, registry, listener, socket })
    }

    /// The socket it serves on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `firecracker`, `qemu-kvm` or `qemu-tcg`.
    pub fn isolation(&self) -> String {
        self.host.isolation()
    }

    /// Whether the default template has booted on this host before.
    pub fn has_template(&self) -> bool {
        self.host.classes.has(&Class::usual())
    }

    /// Boots the default template if it never was, and starts to keep VMs of it ready.
    pub async fn make_template(&self) -> Result<(), StartError> {
        let class = Class::usual();
        let made = self.host.classes.generation(&self.host, &class).await;
        made.map_err(|failure| StartError::Template(failure.to_string()))?;
        self.host.ready.refill(&self.host, &class);
        Ok(())
    }

    /// Whether this host was told to be empty: then nothing starts on it.
    pub fn is_draining(&self) -> bool {
        self.host.drain.switch.is_on()
    }

    /// Capsules that run and that are paused.
    pub fn census(&self) -> (usize, usize) {
        let views: Vec<_> = self.registry.all().iter().map(|handle| handle.shared.view().status).collect();
        let count = |wanted| views.iter().filter(|status| **status == wanted).count();
        (count(model::CapsuleStatus::Running), count(model::CapsuleStatus::Paused))
    }

    /// Ends the agent.
    pub async fn stop(self, how: Stop) {
        self.host.stopping.cancel();
        if how == Stop::PauseAll {
            let pauses = self.registry.all().into_iter().map(|handle| async move {
                match handle.ask(Command::Pause, How::default()).await {
                    // It does not run.
                    Ok(_) | Err(Failure::State(_)) => {}
                    Err(failure) => tracing::warn!(%failure, "not paused; it runs on"),
                }
            });
            stream::iter(pauses).buffer_unordered(limits::SHUTDOWN_PAUSES).collect::<()>().await;
        }
        // Those that were not paused go on, too.
        for handle in self.registry.all() {
            handle.release().await;
        }
        self.listener.stop(Duration::from_secs(1)).await;
        self.host.ready.clear(&self.host).await;
        self.host.tasks.close();
        self.host.tasks.wait().await;
        self.host.metrics.keep(&self.host.records, &self.registry).await;
        self.host.network.clone().close().await;
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn starts_at_a_time() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    (processors * limits::STARTS_PER_PROCESSOR).max(limits::STARTS_MIN)
}

async fn open(prepared: Prepared, registry: &Registry) -> Result<Arc<Host>, StartError> {
    let Prepared { options, pool, artifacts, vmm, vmms } = prepared;
    let layout = Layout(&options.dir);
    let instance = layout.instance().map_err(directory(&options.dir))?;
    let runtime = runtime_dir(&instance);
    let empty = runtime.join("empty");
    std::fs::create_dir_all(&empty).map_err(directory(&empty))?;
    // Sockets by which VMs are ruled.
    std::fs::set_permissions(&runtime, Permissions::from_mode(0o700)).map_err(directory(&runtime))?;
    let groups = groups(&instance);
    let capsules = pool.path().join("capsules");
    let records = Records::open(capsules.clone()).map_err(directory(&capsules))?;
    records.sweep().map_err(directory(&capsules))?;
    let generations = pool.path().join("generations");
    let shelf = Shelf::open(&generations).map_err(directory(&generations))?;
    let vms = pool.path().join("vms");
    std::fs::create_dir_all(&vms).map_err(directory(&vms))?;
    let snapshots = pool.path().join("snapshots");
    let snapshot_files = snapshots::Files::open(snapshots.clone()).map_err(directory(&snapshots))?;
    let snapshots = Snapshots::new(snapshot_files.list().map_err(directory(&snapshots))?);
    let events = Outbox::open(layout.events()).map_err(directory(&options.dir))?;
    let drain = Drain::open(layout.draining()).map_err(directory(&options.dir))?;
    let ready = Ready::new(options.ready_vms.unwrap_or(usize::from(vmm.tier() == Tier::QemuTcg)));

    let listing = records.list().map_err(directory(&capsules))?;
    adopt::end_unowned_vms(&listing, &vms, &runtime).await;
    keeper::cgroup::sweep(&groups);
    let slots = NetworkOptions {
        instance,
        wrenn_dir: options.dir.clone(),
        ready_slots: limits::READY_SLOTS,
        resolvers: network::Resolvers::Host,
    };
    let adoption = Network::open(slots).await?;
    let kept = adopt::slots(&adoption, &listing.records, &runtime).await;
    // Nothing is given up while a record is damaged: it may be the one that names its owner.
    let orphans = if listing.damaged.is_empty() { Orphans::Remove } else { Orphans::Keep };
    let network = adoption.finish(orphans).await;
    let host = Arc::new(Host {
        keepers: Launcher::new(options.program),
        runtime,
        groups,
        artifacts,
        pool,
        network,
        shelf,
        records,
        events,
        vmm,
        vmms,
        classes: Classes::default(),
        snapshots,
        snapshot_files,
        saves: Semaphore::new(limits::SAVES),
        starts: Semaphore::new(starts_at_a_time()),
        ready,
        metrics: Metrics::default(),
        proxy: edge::Proxy::new(Guests(registry.clone()), edge::Hop::ToGuest),
        drain,
        room: watch::Sender::new(Room::Enough),
        tasks: TaskTracker::new(),
        stopping: CancellationToken::new(),
    });
    adopt::capsules(&host, registry, listing, kept).await;
    Ok(host)
}

fn serve(host: &Arc<Host>, registry: &Registry, socket: &Path) -> io::Result<listen::Handle> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    let service = Arc::new(Service { host: host.clone(), registry: registry.clone() });
    let rpc = service.register(connectrpc::Router::new()).into_axum_service();
    let proxied = async |State(proxy): State<edge::Proxy<Guests>>, request: Request| proxy.serve(request).await;
    let router = Router::new()
        .route(&format!("{}{{*rest}}", hostlink::PROXY_PREFIX), any(proxied))
        .with_state(host.proxy.clone())
        .fallback_service(rpc);
    Ok(listen::Listener::serve(listener, router, listen::Limits::default()))
}
