//! `wrenn up`: from nothing to a platform that has run a capsule, told step by step.

mod announce;
mod first_capsule;
mod packages;
pub mod platform;
mod steps;

use crate::capsule::SETTLE;
use crate::cli::{AgentArgs, Global, ServerArgs, UpArgs};
use crate::doctor::{self, Plan};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::instance::Instance;
use crate::output::Output;
use client::{Client, Credentials};
use futures_util::{StreamExt, stream};
use model::CapsuleStatus;
use platform::{Platform, Stop};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::Path;
use steps::Steps;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Descriptors for some three thousand capsules. Not all there may be: tools inherit it, and some close every possible one.
const OPEN_FILES: u64 = 65_536;
/// Capsules paused at the same time when the platform ends: each pause is bound by the disk.
const PAUSES: usize = 2;

/// Runs a platform until Ctrl-C, or with `--once` until its first capsule has run.
pub async fn run(global: &Global, args: &UpArgs) -> Outcome {
    // KVM is tried by the agent, once there is a kernel to try it with.
    let vmm = platform::vmm_options()?;
    let plan = Plan { dir: global.data_dir(), listen: args.listen.listen, running: false, vmm, thorough: false };
    let out = Output { json: global.json };
    let steps = Steps::new(global.json);
    let mut interrupts = Interrupts::new()?;

    let _instance = Instance::take(&plan.dir)?;
    platform::start_logs(&plan.dir, "wrenn.log", true)?;
    packages::install_missing(args.yes)?;
    let report = doctor::examine(&plan).await;
    let warnings = report.warnings();
    if !warnings.is_empty() {
        out.note(&format!("warnings: {}; `wrenn doctor` says what to do", warnings.join(", ")));
    }
    report.into_outcome()?;
    raise_open_files();

    let platform = tokio::select! {
        started = platform::start(&plan, &steps) => started?,
        () = interrupts.next() => return Err(interrupted()),
    };
    let ended = match first(&plan, &platform, out, &steps, &mut interrupts).await {
        Ok(()) if args.once => Ok(Stop::Leave),
        Ok(()) => serve(&plan, out, &steps, &mut interrupts).await,
        Err(failure) => Err(failure),
    };
    match &ended {
        Ok(stop) => platform.stop(*stop).await,
        Err(_) => platform.stop(Stop::Leave).await,
    }
    ended.map(drop)
}

/// The first capsule, unless nothing is to run here.
async fn first(plan: &Plan, platform: &Platform, out: Output, steps: &Steps, interrupts: &mut Interrupts) -> Outcome {
    if platform.is_draining() {
        out.note("this host was emptied for maintenance and starts nothing; `wrenn drain --end` ends that");
        return Ok(());
    }
    let client = Client::new(Credentials::find(&plan.dir)?)?;
    tokio::select! {
        tried = first_capsule::run(&client, steps) => tried,
        () = interrupts.next() => Err(interrupted()),
    }
}

/// Until Ctrl-C; says how the agent is to leave its capsules.
async fn serve(plan: &Plan, out: Output, steps: &Steps, interrupts: &mut Interrupts) -> Outcome<Stop> {
    let client = Client::new(Credentials::find(&plan.dir)?)?;
    announce::ready(&plan.dir, out)?;
    interrupts.next().await;
    out.note("pausing capsules; Ctrl-C again leaves them running");
    tokio::select! {
        // Capsules of other teams than ours are the agent's to pause.
        paused = pause_all(&client, steps) => paused.map(|()| Stop::PauseAll),
        () = interrupts.next() => Ok(Stop::Leave),
    }
}

fn interrupted() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted")
        .hint("`wrenn up` goes on where it was; `wrenn down` removes what is left")
}

/// Saves every running capsule. One that cannot be paused is left running and named.
async fn pause_all(client: &Client, steps: &Steps) -> Outcome {
    let running = client.list().await?.into_iter().filter(|capsule| capsule.status == CapsuleStatus::Running);
    let mut pauses = stream::iter(running.map(async |capsule| {
        let step = steps.begin(&format!("pause {}", capsule.id));
        client.pause(capsule.id, false).await?;
        let capsule = client.settled(capsule.id, SETTLE).await?;
        step.done(capsule.status.as_str());
        Ok::<_, client::Error>(capsule)
    }))
    .buffer_unordered(PAUSES);
    let mut left = Vec::new();
    while let Some(outcome) = pauses.next().await {
        match outcome {
            Ok(capsule) if capsule.status == CapsuleStatus::Running => left.push(capsule.id.to_string()),
            Ok(_) => {}
            Err(error) => left.push(Failure::from(error).message),
        }
    }
    match left.as_slice() {
        [] => Ok(()),
        left => Err(Failure::plain(format_args!("not paused: {}", left.join(", ")))
            .hint("they go on running; `wrenn down` ends them")),
    }
}

/// A session's soft limit is meant for programs that use select(2); a platform holds many sockets for each capsule.
fn raise_open_files() {
    if let Some(limit) = raised(getrlimit(Resource::Nofile)) {
        // Up to the hard limit this is everybody's right.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// The limit to set, if it is higher.
fn raised(limit: Rlimit) -> Option<Rlimit> {
    let wanted = OPEN_FILES.min(limit.maximum.unwrap_or(OPEN_FILES));
    limit.current.is_some_and(|current| current < wanted).then_some(Rlimit { current: Some(wanted), ..limit })
}

/// Ctrl-C and what a service manager sends.
struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    fn new() -> Outcome<Self> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::plain(format_args!("cannot handle signals: {error}")));
        Ok(Self { int: listen(SignalKind::interrupt())?, term: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

/// `wrenn server`: the control plane alone.
pub async fn server_alone(dir: &Path, args: ServerArgs) -> Outcome {
    let mut interrupts = Interrupts::new()?;
    platform::start_logs(dir, "server.log", false)?;
    raise_open_files();
    platform::server(dir, args.listen.listen, args.database_url, interrupts.next()).await
}

/// `wrenn agent`: this host alone. It holds the directory, since what it holds on the host is named after it.
pub async fn agent_alone(dir: &Path, args: &AgentArgs) -> Outcome {
    let mut interrupts = Interrupts::new()?;
    let _instance = Instance::take(dir)?;
    platform::start_logs(dir, "agent.log", false)?;
    raise_open_files();
    platform::agent(dir, args.server, interrupts.next()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_raised_as_far_as_allowed_and_never_lowered() {
        let rows = [
            ((Some(1024), Some(4096)), Some(4096)),
            ((Some(1024), Some(1 << 30)), Some(OPEN_FILES)),
            ((Some(1024), None), Some(OPEN_FILES)),
            ((Some(1 << 20), Some(1 << 30)), None),
            ((Some(4096), Some(4096)), None),
            ((None, None), None),
        ];
        for ((current, maximum), expected) in rows {
            let set = raised(Rlimit { current, maximum });
            assert_eq!(set.as_ref().and_then(|limit| limit.current), expected, "{current:?} of {maximum:?}");
            assert!(set.is_none_or(|limit| limit.maximum == maximum));
        }
    }
}
