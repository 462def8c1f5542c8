//! Carrying an operation through at the agent until it is known to have worked or failed.
//!
//! The agent's calls may be repeated, so whatever leaves the outcome open (no connection, no answer in time) is
//! tried again until the operation's deadline; only an answer that says no counts as a failure.

use crate::Fleet;
use crate::convert;
use chrono::Utc;
use connectrpc::client::CallOptions;
use connectrpc::{ConnectError, ErrorCode};
use hostlink::AgentLink;
use lifecycle::server::{Event, Failure, Left, Operation, Seen};
use model::{Capsule, EndReason};
use proto::hostagent::v1 as wire;
use std::time::Duration;
use store::{Change, Pending, StoreError, Task};
use uuid::Uuid;

/// Limit of one create or resume: a first boot on a slow machine.
const START_CALL: Duration = Duration::from_mins(5);
/// Limit of one pause: a large memory on a slow disk.
const PAUSE_CALL: Duration = Duration::from_mins(5);
/// Limit of one destroy.
const DESTROY_CALL: Duration = Duration::from_mins(1);
/// Limit of the question how a capsule is.
const LIST_CALL: Duration = Duration::from_secs(10);
/// Pause before the second try; doubled for each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest pause between tries.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How a try went.
enum Tried {
    /// The outcome is known.
    Known(Event, Change),
    /// It is not.
    Open(ConnectError),
}

impl Fleet {
    /// Carries an operation out in the background. It ends when the operation does, or loses its race, or the
    /// server stops; then its row remains and the next server goes on.
    pub(crate) fn carry_out(&self, pending: Pending, capsule: Capsule) {
        let fleet = self.clone();
        self.spawn(async move {
            let mut capsule = Some(capsule);
            while let Err(error) = fleet.carry_through(&pending, capsule.take()).await {
                tracing::error!(capsule = %pending.capsule, %error, "an operation is held up by the database");
                if !fleet.back_off(u32::MAX).await {
                    break;
                }
            }
        });
    }

    /// `known` is the capsule as it began; without it, it is looked up.
    async fn carry_through(&self, pending: &Pending, mut known: Option<Capsule>) -> Result<(), StoreError> {
        let mut attempt = pending.attempt;
        loop {
            let capsule = match known.take() {
                Some(capsule) => Some(capsule),
                None => self.store().capsule(pending.capsule).await?,
            };
            let Some(capsule) = capsule else { return Ok(()) };
            if capsule.revision != pending.revision {
                return Ok(());
            }
            let overdue = pending.deadline.is_some_and(|deadline| deadline <= Utc::now());
            let (event, change) = if overdue {
                (Event::OutOfTime(pending.task.operation()), Change::default())
            } else {
                match self.try_once(&capsule, pending.task).await {
                    Tried::Known(event, change) => (event, change),
                    Tried::Open(error) => {
                        tracing::warn!(capsule = %capsule.id, task = ?pending.task, attempt, %error, "trying again");
                        if !self.store().operation_failed_once(pending.id).await? || !self.back_off(attempt).await {
                            return Ok(());
                        }
                        attempt = attempt.saturating_add(1);
                        continue;
                    }
                }
            };
            self.apply(&capsule, &event, None, change).await?;
            return Ok(());
        }
    }

    /// False when the server stops.
    async fn back_off(&self, attempt: u32) -> bool {
        let pause = BACKOFF_MIN.saturating_mul(1 << attempt.min(16)).min(BACKOFF_MAX);
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = self.stopping().cancelled() => false,
        }
    }

    async fn try_once(&self, capsule: &Capsule, task: Task) -> Tried {
        let link = match self.link(capsule.host) {
            Ok(link) => link,
            Err(error) => return Tried::Open(ConnectError::unavailable(error.message)),
        };
        match task {
            Task::Create { snapshot } => create(&link, capsule, snapshot).await,
            Task::Pause { discard_memory } => pause(&link, capsule, discard_memory).await,
            Task::Resume { discard_memory } => resume(&link, capsule, discard_memory).await,
            Task::Destroy => destroy(&link, capsule).await,
        }
    }

    /// Removes what the host may still have of a capsule that has ended. What is missed here is found by the next
    /// comparison with the host's list.
    pub(crate) fn clean(&self, capsule: Capsule) {
        let fleet = self.clone();
        self.spawn(async move {
            let Ok(link) = fleet.link(capsule.host) else { return };
            if let Tried::Open(error) = destroy(&link, &capsule).await {
                tracing::warn!(capsule = %capsule.id, %error, "cannot remove what is left of a capsule");
            }
        });
    }
}

async fn create(link: &AgentLink, capsule: &Capsule, snapshot: Option<Uuid>) -> Tried {
    let request = convert::create_request(capsule, snapshot);
    let answer = link.rpc().create_sandbox_with_options(request, within(START_CALL)).await;
    match answer {
        Ok(answer) => done(Operation::Create, answer.into_owned().sandbox.into_option()),
        Err(error) if is_open(&error) => Tried::Open(error),
        Err(error) => failed(Operation::Create, start_failed(&error), Left::Nothing),
    }
}

async fn resume(link: &AgentLink, capsule: &Capsule, discard_memory: bool) -> Tried {
    let request = wire::ResumeSandboxRequest {
        sandbox_id: capsule.id.to_string(),
        lifetime: Some(convert::lifetime(capsule.lifetime)).into(),
        discard_memory,
        egress: Some(convert::egress(&capsule.surroundings.egress)).into(),
        ..Default::default()
    };
    match link.rpc().resume_sandbox_with_options(request, within(START_CALL)).await {
        Ok(answer) => done(Operation::Resume, answer.into_owned().sandbox.into_option()),
        Err(error) if is_open(&error) => Tried::Open(error),
        Err(error) => failed(Operation::Resume, start_failed(&error), Left::Saved),
    }
}

async fn pause(link: &AgentLink, capsule: &Capsule, discard_memory: bool) -> Tried {
    let request =
        wire::PauseSandboxRequest { sandbox_id: capsule.id.to_string(), discard_memory, ..Default::default() };
    let error = match link.rpc().pause_sandbox_with_options(request, within(PAUSE_CALL)).await {
        Ok(answer) => return paused(answer.into_owned().sandbox.as_option().map(convert::seen)),
        Err(error) if is_open(&error) => return Tried::Open(error),
        Err(error) => error,
    };
    tracing::warn!(capsule = %capsule.id, %error, "pause failed");
    match look(link, capsule).await {
        Ok(Some(Seen::Running)) => failed(Operation::Pause, EndReason::VmCrash, Left::Vm),
        Ok(Some(Seen::Dead(reason))) => failed(Operation::Pause, reason, Left::Nothing),
        Ok(None) => failed(Operation::Pause, EndReason::VmCrash, Left::Nothing),
        Ok(seen @ Some(Seen::Paused(_))) => paused(seen),
        Ok(Some(Seen::Busy)) => Tried::Open(error),
        Err(unanswered) => Tried::Open(unanswered),
    }
}

/// Of a capsule that is paused: as asked, or by its lifetime first, or because its VM was lost and it went back to what was
/// saved before.
fn paused(seen: Option<Seen>) -> Tried {
    match seen {
        Some(Seen::Paused(Some(reason))) if reason.is_loss() => failed(Operation::Pause, reason, Left::Saved),
        _ => done(Operation::Pause, None),
    }
}

/// How its host sees a capsule; `None` when it does not know it.
async fn look(link: &AgentLink, capsule: &Capsule) -> Result<Option<Seen>, ConnectError> {
    let list = link.rpc().list_sandboxes_with_options(wire::ListSandboxesRequest::default(), within(LIST_CALL)).await?;
    let id = capsule.id.to_string();
    Ok(list.into_owned().sandboxes.iter().find(|sandbox| sandbox.sandbox_id == id).map(convert::seen))
}

/// Every answer but "gone" leaves it open: a capsule counts as stopped when its host confirms it, not before.
async fn destroy(link: &AgentLink, capsule: &Capsule) -> Tried {
    let request = wire::DestroySandboxRequest { sandbox_id: capsule.id.to_string(), ..Default::default() };
    match link.rpc().destroy_sandbox_with_options(request, within(DESTROY_CALL)).await {
        Ok(_) => done(Operation::Destroy, None),
        Err(error) if error.code == ErrorCode::NotFound => done(Operation::Destroy, None),
        Err(error) => Tried::Open(error),
    }
}

fn within(limit: Duration) -> CallOptions {
    CallOptions::default().with_timeout(limit)
}

/// Whether it says nothing about what the agent did or will do.
fn is_open(error: &ConnectError) -> bool {
    matches!(error.code, ErrorCode::Unavailable | ErrorCode::DeadlineExceeded | ErrorCode::Canceled)
}

fn done(operation: Operation, sandbox: Option<wire::Sandbox>) -> Tried {
    let facts = sandbox.map(convert::facts);
    Tried::Known(Event::Done(operation), Change { facts, ..Change::default() })
}

fn failed(operation: Operation, reason: EndReason, left: Left) -> Tried {
    Tried::Known(Event::Failed(operation, Failure { reason, left }), Change::default())
}

fn start_failed(error: &ConnectError) -> EndReason {
    EndReason::StartFailed(convert::cut(&hostlink::error(error).message))
}
