//! Operations under way. A row lives exactly as long as its capsule stays in the status the operation works in.

use crate::capsules::{json, signed, typed, unsigned};
use crate::entity::operation;
use crate::error::{StoreError, unreadable};
use crate::open::Store;
use crate::time::now;
use chrono::{DateTime, TimeDelta, Utc};
use lifecycle::server::Operation;
use model::CapsuleId;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What an operation is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "lowercase")]
pub enum Task {
    /// Make it.
    Create {
        /// As a clone of this snapshot on its host.
        #[serde(default)]
        snapshot: Option<Uuid>,
    },
    /// Save it and end its VM.
    Pause {
        /// Keep the disk only.
        #[serde(default)]
        discard_memory: bool,
    },
    /// Bring it back.
    Resume {
        /// Boot from the disk instead of the saved memory.
        discard_memory: bool,
    },
    /// Remove it.
    Destroy,
}

impl Task {
    /// Its kind.
    #[must_use]
    pub const fn operation(self) -> Operation {
        match self {
            Self::Create { .. } => Operation::Create,
            Self::Pause { .. } => Operation::Pause,
            Self::Resume { .. } => Operation::Resume,
            Self::Destroy => Operation::Destroy,
        }
    }
}

/// An operation under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Which.
    pub id: Uuid,
    /// Of which capsule.
    pub capsule: CapsuleId,
    /// What to do.
    pub task: Task,
    /// Of the capsule; once it differs the operation has lost its race.
    pub revision: u64,
    /// How often it was tried in vain.
    pub attempt: u32,
    /// When to give up; absent = never.
    pub deadline: Option<DateTime<Utc>>,
}

impl Store {
    /// All of them, oldest first.
    pub async fn operations(&self) -> Result<Vec<Pending>, StoreError> {
        let rows = operation::Entity::find().order_by_asc(operation::Column::CreatedAt).all(self.db()).await?;
        rows.into_iter().map(read).collect()
    }

    /// The one under way at a capsule.
    pub async fn operation(&self, capsule: CapsuleId) -> Result<Option<Pending>, StoreError> {
        let row = operation::Entity::find().filter(operation::Column::SandboxId.eq(capsule.uuid()));
        row.one(self.db()).await?.map(read).transpose()
    }

    /// Notes that it was tried in vain once more; false when it is not under way any more.
    pub async fn operation_failed_once(&self, id: Uuid) -> Result<bool, StoreError> {
        let done = operation::Entity::update_many()
            .col_expr(operation::Column::Attempt, Expr::col(operation::Column::Attempt).add(1))
            .filter(operation::Column::Id.eq(id))
            .exec(self.db())
            .await?;
        Ok(done.rows_affected == 1)
    }
}

/// Ends what was under way at a capsule, as its status changes.
pub(crate) async fn end(capsule: CapsuleId, db: &impl ConnectionTrait) -> Result<(), StoreError> {
    operation::Entity::delete_many().filter(operation::Column::SandboxId.eq(capsule.uuid())).exec(db).await?;
    Ok(())
}

/// Writes the row of an operation that begins now.
pub(crate) async fn begin(
    capsule: CapsuleId,
    revision: u64,
    task: Task,
    db: &impl ConnectionTrait,
) -> Result<Pending, StoreError> {
    let now = now();
    let limit = task.operation().limit_ms().and_then(|ms| TimeDelta::try_milliseconds(i64::try_from(ms).ok()?));
    let row = operation::ActiveModel {
        id: Set(Uuid::new_v4()),
        sandbox_id: Set(capsule.uuid()),
        kind: Set(task.operation().as_str().to_owned()),
        revision: Set(signed("revision", revision)?),
        attempt: Set(0),
        details: Set(json("details", &task)?),
        created_at: Set(now),
        deadline: Set(limit.map(|limit| now + limit)),
    };
    read(operation::Entity::insert(row).exec_with_returning(db).await?)
}

fn read(row: operation::Model) -> Result<Pending, StoreError> {
    let task: Task = typed("details", row.details)?;
    if task.operation().as_str() != row.kind {
        return Err(unreadable("operation", "its kind and its details differ"));
    }
    Ok(Pending {
        id: row.id,
        capsule: CapsuleId::from_uuid(row.sandbox_id),
        task,
        revision: unsigned("revision", row.revision)?,
        attempt: unsigned("attempt", row.attempt)?,
        deadline: row.deadline,
    })
}
