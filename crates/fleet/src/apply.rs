//! From a decision of the machine to what is written and begun.

use crate::Fleet;
use chrono::Utc;
use lifecycle::server::{Effect, Event, Move, State, Step, step};
use model::Capsule;
use store::{Change, StoreError, Task};

/// How often a decision is taken again because somebody else moved the capsule meanwhile. Every such move brings
/// the capsule on, so this is not reached in practice.
const RACES_MAX: u32 = 16;

/// What became of an event.
pub(crate) enum Applied {
    /// The capsule moved.
    Moved(Box<Capsule>),
    /// It is as it should be, or somebody else's turn.
    Stayed,
    /// Not possible in its status.
    Refused,
    /// Somebody else moved it first.
    Lost,
}

impl Fleet {
    /// Decides upon an event and writes the outcome, once. `task` is what begins if an operation does.
    pub(crate) async fn apply(
        &self,
        capsule: &Capsule,
        event: &Event,
        task: Option<Task>,
        change: Change,
    ) -> Result<Applied, StoreError> {
        let now_ms = unsigned_ms(Utc::now().timestamp_millis());
        let state =
            State { status: capsule.status, since_ms: unsigned_ms(capsule.status_changed_at.timestamp_millis()) };
        let Move { to, reason, effect } = match step(state, event, now_ms) {
            Step::Move(decided) => decided,
            Step::Stay => return Ok(Applied::Stayed),
            Step::Refuse => return Ok(Applied::Refused),
        };
        let begun = task.filter(|task| effect == Some(Effect::Begin(task.operation())));
        let change = Change { reason, task: begun, ..change };
        let Some((moved, pending)) = self.store().move_capsule(capsule, to, change).await? else {
            return Ok(Applied::Lost);
        };
        tracing::info!(capsule = %moved.id, from = %capsule.status, to = %moved.status, reason = ?moved.reason, "moved");
        self.tell_waiting(moved.id);
        if let Some(pending) = pending {
            self.carry_out(pending, moved.clone());
        }
        if effect == Some(Effect::Clean) {
            self.clean(moved.clone());
        }
        Ok(Applied::Moved(Box::new(moved)))
    }

    /// As [`Fleet::apply`], deciding again when a race is lost. Answers the capsule as it then is.
    pub(crate) async fn apply_again(
        &self,
        mut capsule: Capsule,
        event: &Event,
        task: Option<Task>,
        change: Change,
    ) -> Result<(Capsule, Applied), StoreError> {
        for _ in 0..RACES_MAX {
            match self.apply(&capsule, event, task, change.clone()).await? {
                Applied::Moved(moved) => return Ok((*moved.clone(), Applied::Moved(moved))),
                Applied::Lost => {}
                applied => return Ok((capsule, applied)),
            }
            match self.store().capsule(capsule.id).await? {
                Some(now) => capsule = now,
                None => break,
            }
        }
        Ok((capsule, Applied::Lost))
    }
}

/// Times before 1970 count as 1970.
pub(crate) fn unsigned_ms(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}
