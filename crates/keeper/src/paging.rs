//! Bringing a VMM its guest memory, where its spec asks for that.

use std::fs::{self, Permissions};
use std::future::pending;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use memory::pager::{MemoryFile, Pager, PagerError, Region, Source, WorkingSet};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use vmm::firecracker::uffd::{HandshakeError, receive};

use crate::limits;
use crate::records::{PAGER, PagerSpec};

/// Why a VMM gets no more pages.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PagesLost {
    #[error("guest memory cannot be served: {0}")]
    Start(#[from] io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Pager(#[from] PagerError),
    #[error("the thread that serves guest memory died")]
    Died,
}

/// What is needed to serve a VMM that has not been started yet.
#[derive(Debug)]
pub(crate) struct Paging {
    listener: UnixListener,
    memory: MemoryFile,
    pager: Pager,
}

impl Paging {
    /// Listens on [`PAGER`] in the current directory.
    pub(crate) fn listen(spec: &PagerSpec) -> io::Result<Self> {
        let memory = MemoryFile::open(&spec.memory)?;
        let pager = Pager::prefetching(working_set(spec))?;
        let listener = UnixListener::bind(PAGER)?;
        // The VMM may run as another user; nobody else gets into the machine's directory.
        fs::set_permissions(PAGER, Permissions::from_mode(0o666))?;
        Ok(Self { listener, memory, pager })
    }

    /// Serves the VMM that connects, to its end.
    async fn serve(self) -> Result<(), PagesLost> {
        // As long as it has not, it needs no pages: there is nothing to be late for.
        let (stream, _) = self.listener.accept().await?;
        drop(self.listener);
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        let (tell, told) = oneshot::channel();
        let (memory, pager) = (self.memory, self.pager);
        let serve = move || drop(tell.send(bring(&stream, memory, &pager)));
        std::thread::Builder::new().name("pager".to_owned()).spawn(serve)?;
        told.await.unwrap_or(Err(PagesLost::Died))
    }
}

/// Serves, if there is something to serve, and returns when no page will come any more although the VMM may want some.
pub(crate) async fn lost(paging: Option<Paging>) -> PagesLost {
    if let Some(paging) = paging
        && let Err(lost) = paging.serve().await
    {
        return lost;
    }
    pending().await
}

fn bring(stream: &UnixStream, memory: MemoryFile, pager: &Pager) -> Result<(), PagesLost> {
    let (uffd, regions) = receive(stream, memory.bytes(), limits::HANDSHAKE)?;
    let region = |region: vmm::firecracker::uffd::Region| Region {
        address: region.address,
        bytes: region.bytes,
        offset: region.offset,
    };
    let regions: Vec<Region> = regions.into_iter().map(region).collect();
    let source: Arc<dyn Source> = Arc::new(memory);
    Ok(pager.serve(&uffd, &regions, &source)?)
}

/// Only advice: what is wrong with it is written to the log.
fn working_set(spec: &PagerSpec) -> WorkingSet {
    let Some(path) = &spec.working_set else { return WorkingSet::default() };
    WorkingSet::read(path).unwrap_or_else(|error| {
        eprintln!("keeper: {}: {error}", path.display());
        WorkingSet::default()
    })
}
