//! A slot made and removed where nobody sees it: the proof that this host can make one.

use std::io;
use std::path::Path;

use tokio::sync::oneshot;

use crate::setup::{Plan, SetupError, system};
use crate::{namespace, range, reclaim};

/// Prepares a slot as every guest gets one (namespace, TAP device, veth pair, limiter, firewall) and removes it. The host
/// of that slot is a network namespace of its own: neither the machine's links nor its firewall change. A kernel
/// without a module that is needed, or a sandbox that forbids one of the steps, is found out here.
pub async fn rehearse() -> Result<(), SetupError> {
    let (answer, result) = oneshot::channel();
    let rehearsal = move || {
        // Nobody waits for the answer when the caller has been cancelled.
        let _ = answer.send(rehearse_here());
    };
    std::thread::Builder::new().name("rehearsal".into()).spawn(rehearsal).map_err(system("a thread"))?;
    result.await.map_err(|_| system("a thread")(io::Error::other("it ended early")))?
}

/// No instance has names like these: a dash would have to follow.
fn name(process: u32) -> String {
    format!("{PREFIX}{process}")
}

const PREFIX: &str = "wrtrial.";

/// Namespaces of rehearsals whose process was killed in the middle.
fn remove_leftovers() -> io::Result<()> {
    let process = |name: &str| name.strip_prefix(PREFIX)?.parse::<u32>().ok();
    let gone = |process: &u32| !Path::new("/proc").join(process.to_string()).exists();
    for process in namespace::names()?.iter().filter_map(|name| process(name)).filter(gone) {
        namespace::remove(&name(process))?;
    }
    Ok(())
}

/// Runs on a thread of its own, which ends in the namespace that was the host.
fn rehearse_here() -> Result<(), SetupError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map_err(|error| SetupError::Namespace(error.into()))?;
    // Its threads, too, are on that host.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("a thread"))?;
    runtime.block_on(async {
        let host = reclaim::host().map_err(system("the host"))?;
        remove_leftovers().map_err(SetupError::Namespace)?;
        let plan =
            Plan { namespace: name(std::process::id()), veth: "wvtrial".to_owned(), pair: range::pair(range::ANY, 1) };
        let namespace = host.prepare(&plan).await?;
        drop(namespace);
        host.remove(&plan).await
    })
}
