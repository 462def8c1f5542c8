//! A capsule as the control plane sees it: what may be asked of it when, and what the news from its host mean.
//!
//! [`step`] decides; its caller writes the move with a condition on the status *and* revision it decided upon.
//! A lost condition means that somebody else moved the capsule first: an operation then gives way, a request is
//! decided again.

use model::{CapsuleStatus, EndReason};

/// How long a transient status may contradict its host, beyond the limit of the operation behind it, before the host
/// is believed. Operations are durable and finish by themselves: this is for the day when one does not.
pub const GRACE_MS: u64 = 120_000;

/// Work at the agent that takes a capsule out of a transient status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Out of `starting`.
    Create,
    /// Out of `pausing`.
    Pause,
    /// Out of `resuming`.
    Resume,
    /// Out of `stopping`.
    Destroy,
}

impl Operation {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Create, Self::Pause, Self::Resume, Self::Destroy];

    /// As stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Destroy => "destroy",
        }
    }

    /// Reads what [`Operation::as_str`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The status it works in.
    #[must_use]
    pub const fn status(self) -> CapsuleStatus {
        match self {
            Self::Create => CapsuleStatus::Starting,
            Self::Pause => CapsuleStatus::Pausing,
            Self::Resume => CapsuleStatus::Resuming,
            Self::Destroy => CapsuleStatus::Stopping,
        }
    }

    /// The operation that belongs to a status.
    #[must_use]
    pub fn of(status: CapsuleStatus) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.status() == status)
    }

    /// How long it may be tried. A destroy is tried until its host confirms it: giving up would leak a VM.
    #[must_use]
    pub const fn limit_ms(self) -> Option<u64> {
        match self {
            Self::Create | Self::Pause => Some(600_000),
            Self::Resume => Some(300_000),
            Self::Destroy => None,
        }
    }
}

/// What decides about a capsule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Its status.
    pub status: CapsuleStatus,
    /// Unix time in milliseconds since which it has it.
    pub since_ms: u64,
}

/// Something that happened, or that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client wants this. [`Operation::Create`] cannot be asked of a capsule that exists.
    Asked(Operation),
    /// The agent confirmed the operation under way.
    Done(Operation),
    /// The agent refused it for good.
    Failed(Operation, Failure),
    /// It was tried for as long as it may be, and nobody knows how it stands.
    OutOfTime(Operation),
    /// Its host lists it, or reported this by itself.
    Seen(Seen),
    /// Its host answered and does not know it; the reason is the likeliest one.
    Unknown(EndReason),
    /// Its host does not answer any more.
    HostLost,
}

/// Why an operation failed, and what is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub reason: EndReason,
    /// What of the capsule.
    pub left: Left,
}

/// What a failed operation leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Its VM, which still answers.
    Vm,
    /// What it was last resumed from.
    Saved,
    /// Nothing.
    Nothing,
}

/// A host's view of a capsule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Its VM is alive.
    Running,
    /// It is saved; the reason when it was not a client's wish.
    Paused(Option<EndReason>),
    /// The host is working on it.
    Busy,
    /// It ended and nothing is left but its record.
    Dead(EndReason),
}

/// What follows from an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The status changes.
    Move(Move),
    /// Nothing changes; it is so already, or it is somebody else's turn.
    Stay,
    /// A client asked for what is not possible in this status.
    Refuse,
}

/// A change of status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The new status.
    pub to: CapsuleStatus,
    /// Why it does not run; `None` clears an old reason.
    pub reason: Option<EndReason>,
    /// What to do beside writing and announcing it.
    pub effect: Option<Effect>,
}

/// Work that follows from a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Carry this operation through; its row is written with the move.
    Begin(Operation),
    /// The host may still have something of the capsule: destroy it there.
    Clean,
}

/// Decides what an event means for a capsule. Total: every pair of status and event has an answer.
#[must_use]
pub fn step(state: State, event: &Event, now_ms: u64) -> Step {
    if state.status.is_terminal() {
        return if *event == Event::Asked(Operation::Pause) || *event == Event::Asked(Operation::Resume) {
            Step::Refuse
        } else {
            Step::Stay
        };
    }
    match event {
        Event::Asked(operation) => asked(state.status, *operation),
        Event::Done(operation) => at(state.status, *operation, || done(*operation)),
        Event::Failed(operation, failure) => at(state.status, *operation, || failed(*operation, failure)),
        Event::OutOfTime(operation) => at(state.status, *operation, || out_of_time(*operation)),
        Event::Seen(seen) => self::seen(state, seen, now_ms),
        Event::Unknown(reason) => unknown(state, reason, now_ms),
        Event::HostLost => host_lost(state.status),
    }
}

/// News of an operation count only in the status it works in.
fn at(status: CapsuleStatus, operation: Operation, then: impl FnOnce() -> Step) -> Step {
    if status == operation.status() { then() } else { Step::Stay }
}

fn to(status: CapsuleStatus, reason: Option<EndReason>) -> Step {
    Step::Move(Move { to: status, reason, effect: None })
}

fn lost(status: CapsuleStatus, reason: EndReason) -> Step {
    Step::Move(Move { to: status, reason: Some(reason), effect: Some(Effect::Clean) })
}

fn asked(status: CapsuleStatus, operation: Operation) -> Step {
    use CapsuleStatus::{Paused, Running, Stopping};
    let begin = |reason| {
        let effect = Some(Effect::Begin(operation));
        Step::Move(Move { to: operation.status(), reason, effect })
    };
    match (operation, status) {
        (Operation::Destroy, Stopping) => Step::Stay,
        (Operation::Destroy, _) | (Operation::Pause, Running) => begin(Some(EndReason::User)),
        (Operation::Resume, Paused) => begin(None),
        _ => Step::Refuse,
    }
}

fn done(operation: Operation) -> Step {
    match operation {
        Operation::Create | Operation::Resume => to(CapsuleStatus::Running, None),
        Operation::Pause => to(CapsuleStatus::Paused, Some(EndReason::User)),
        Operation::Destroy => to(CapsuleStatus::Stopped, Some(EndReason::User)),
    }
}

fn failed(operation: Operation, failure: &Failure) -> Step {
    let reason = failure.reason.clone();
    match operation {
        Operation::Pause if failure.left == Left::Vm => to(CapsuleStatus::Running, None),
        Operation::Pause if failure.left == Left::Saved => to(CapsuleStatus::Paused, Some(reason)),
        Operation::Create | Operation::Pause => lost(CapsuleStatus::Error, reason),
        // What was saved is still there.
        Operation::Resume => to(CapsuleStatus::Paused, Some(reason)),
        Operation::Destroy => Step::Stay,
    }
}

fn out_of_time(operation: Operation) -> Step {
    match operation {
        Operation::Create => {
            lost(CapsuleStatus::Error, EndReason::StartFailed("its host did not answer in time".to_owned()))
        }
        // Running or paused: its host will tell.
        Operation::Pause | Operation::Resume => to(CapsuleStatus::Missing, None),
        Operation::Destroy => Step::Stay,
    }
}

/// Whether the operation of a transient status should have ended long ago.
fn is_overdue(state: State, now_ms: u64) -> bool {
    let limit_ms = Operation::of(state.status).and_then(Operation::limit_ms).unwrap_or(0);
    now_ms.saturating_sub(state.since_ms) > limit_ms + GRACE_MS
}

fn seen(state: State, seen: &Seen, now_ms: u64) -> Step {
    use CapsuleStatus::{Missing, Paused, Pausing, Resuming, Running, Starting};
    let late = is_overdue(state, now_ms);
    match (state.status, seen) {
        (Missing | Paused, Seen::Running) => to(Running, None),
        (Missing | Running, Seen::Paused(reason)) => to(Paused, reason.clone()),
        (Starting | Resuming | Pausing, Seen::Running) if late => to(Running, None),
        (Resuming | Pausing, Seen::Paused(reason)) if late => to(Paused, reason.clone()),
        (Missing | Running, Seen::Dead(reason)) => lost(CapsuleStatus::Error, reason.clone()),
        (Starting | Pausing | Resuming, Seen::Dead(reason)) if late => lost(CapsuleStatus::Error, reason.clone()),
        _ => Step::Stay,
    }
}

fn unknown(state: State, reason: &EndReason, now_ms: u64) -> Step {
    use CapsuleStatus::{Error, Missing, Paused, Pausing, Resuming, Running, Starting, Stopped, Stopping};
    let late = is_overdue(state, now_ms);
    match state.status {
        Running | Missing | Paused => to(Stopped, Some(reason.clone())),
        Starting | Pausing | Resuming if late => to(Error, Some(reason.clone())),
        Stopping if late => to(Stopped, Some(EndReason::User)),
        Starting | Pausing | Resuming | Stopping | Stopped | Error => Step::Stay,
    }
}

/// A paused capsule lies safe on its host's disk, and the wish to destroy one outlives the loss of its host.
fn host_lost(status: CapsuleStatus) -> Step {
    use CapsuleStatus::{Error, Missing, Paused, Pausing, Resuming, Running, Starting, Stopped, Stopping};
    match status {
        Starting | Running | Pausing | Resuming => to(Missing, None),
        Paused | Stopping | Missing | Stopped | Error => Step::Stay,
    }
}

/// What a change to this status is called in events.
#[must_use]
pub const fn event_name(to: CapsuleStatus) -> &'static str {
    match to {
        CapsuleStatus::Starting => "capsule.created",
        CapsuleStatus::Running => "capsule.running",
        CapsuleStatus::Paused => "capsule.paused",
        CapsuleStatus::Stopped => "capsule.destroyed",
        CapsuleStatus::Error => "capsule.failed",
        CapsuleStatus::Missing => "capsule.missing",
        CapsuleStatus::Pausing | CapsuleStatus::Resuming | CapsuleStatus::Stopping => "capsule.state.changed",
    }
}
