//! One thread that enters network namespaces on behalf of asynchronous code.
//!
//! A socket belongs for ever to the namespace it was made in (`network_namespaces(7)`), and a namespace is a property of
//! a thread: so one thread walks into the namespace, makes the socket, and hands it to the runtime's threads, which
//! never leave the host's namespace.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use tokio::sync::{mpsc, oneshot};

use crate::limits;

type Job = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Handle of the thread. The thread ends with the last handle.
#[derive(Clone)]
pub(crate) struct Entrance {
    host: Arc<OwnedFd>,
    jobs: mpsc::Sender<(Arc<OwnedFd>, Job)>,
}

impl Entrance {
    /// Starts the thread. The calling thread's namespace is the host's from now on.
    pub(crate) fn start() -> io::Result<Self> {
        let host = Arc::new(OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net")?));
        let (jobs, mut queue) = mpsc::channel::<(Arc<OwnedFd>, Job)>(limits::ENTRANCE_QUEUE);
        let home = Arc::clone(&host);
        std::thread::Builder::new().name("entrance".into()).spawn(move || {
            while let Some((namespace, job)) = queue.blocking_recv() {
                job(enter(&namespace));
                // Staying would keep a deleted namespace alive. A failure does no harm: every job enters anew.
                let _ = enter(&home);
            }
        })?;
        Ok(Self { host, jobs })
    }

    /// The host's namespace.
    pub(crate) fn host(&self) -> &Arc<OwnedFd> {
        &self.host
    }

    /// Runs a short job inside `namespace`. The job must not wait for anything.
    pub(crate) async fn run<T, F>(&self, namespace: &Arc<OwnedFd>, job: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |entered| {
            // Nobody waits for the answer when the caller has been cancelled.
            let _ = answer.send(entered.and_then(|()| job()));
        });
        let gone = || io::Error::other("the thread that enters namespaces has ended");
        self.jobs.send((Arc::clone(namespace), job)).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }

    /// Runs a short job in the host's namespace.
    pub(crate) async fn run_on_host<T, F>(&self, job: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        self.run(&self.host, job).await
    }
}

fn enter(namespace: &OwnedFd) -> io::Result<()> {
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}
