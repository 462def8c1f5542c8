//! The outbox: events are written with the change they tell of, relayed afterwards, and kept a while as history.

use crate::capsules::ordered_id;
use crate::entity::event;
use crate::error::StoreError;
use crate::open::Store;
use crate::time::{now, whole};
use bus::{Message, Outbox};
use chrono::{TimeDelta, Utc};
use model::TeamId;
use sea_orm::sea_query::{Expr, LockBehavior, LockType};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};
use uuid::Uuid;

/// How long a relay has for what it took.
const LEASE: TimeDelta = TimeDelta::seconds(30);
/// Most events of one subject that are read at once.
const HISTORY_MAX: u64 = 1_000;

/// An event to be written.
pub(crate) struct NewEvent<'a> {
    pub team: TeamId,
    pub subject: Uuid,
    pub name: &'a str,
    pub body: serde_json::Value,
}

pub(crate) async fn write(event: NewEvent<'_>, db: &impl ConnectionTrait) -> Result<(), StoreError> {
    let row = event::ActiveModel {
        id: Set(ordered_id()),
        team_id: Set(event.team.uuid()),
        subject_id: Set(event.subject),
        name: Set(event.name.to_owned()),
        body: Set(event.body),
        created_at: Set(now()),
        ..Default::default()
    };
    event::Entity::insert(row).exec_without_returning(db).await?;
    Ok(())
}

impl Store {
    /// What happened to a subject, oldest first; the newest thousand.
    pub async fn history(&self, subject: Uuid) -> Result<Vec<Message>, StoreError> {
        let newest = event::Entity::find()
            .filter(event::Column::SubjectId.eq(subject))
            .order_by_desc(event::Column::Seq)
            .limit(HISTORY_MAX);
        Ok(newest.all(self.db()).await?.into_iter().rev().map(read).collect())
    }

    /// Forgets relayed events that are older than this; answers how many.
    pub async fn trim_events(&self, older_than: TimeDelta) -> Result<u64, StoreError> {
        let old = event::Entity::delete_many()
            .filter(event::Column::RelayedAt.is_not_null())
            .filter(event::Column::CreatedAt.lt(whole(Utc::now() - older_than)));
        Ok(old.exec(self.db()).await?.rows_affected)
    }
}

impl Outbox for Store {
    type Error = StoreError;

    async fn written(&self) {
        Store::written(self).notified().await;
    }

    async fn lease(&self, most: u64) -> Result<Vec<Message>, StoreError> {
        let waiting = event::Entity::find()
            .filter(event::Column::RelayedAt.is_null())
            .filter(
                Condition::any().add(event::Column::LeasedUntil.is_null()).add(event::Column::LeasedUntil.lt(now())),
            )
            .order_by_asc(event::Column::Seq)
            .limit(most);
        // A look without the write lock first: most often there is nothing.
        if waiting.clone().one(self.db()).await?.is_none() {
            return Ok(Vec::new());
        }
        let transaction = self.begin().await?;
        let rows = waiting.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).all(&transaction).await?;
        event::Entity::update_many()
            .col_expr(event::Column::LeasedUntil, Expr::value(now() + LEASE))
            .filter(event::Column::Seq.is_in(rows.iter().map(|row| row.seq)))
            .exec(&transaction)
            .await?;
        transaction.commit().await?;
        Ok(rows.into_iter().map(read).collect())
    }

    async fn settle(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        event::Entity::update_many()
            .col_expr(event::Column::RelayedAt, Expr::value(now()))
            .filter(event::Column::Id.is_in(ids.iter().copied()))
            .exec(self.db())
            .await?;
        Ok(())
    }
}

fn read(row: event::Model) -> Message {
    Message {
        id: row.id,
        team: row.team_id,
        subject: row.subject_id,
        name: row.name,
        body: row.body,
        at_us: row.created_at.timestamp_micros(),
    }
}
