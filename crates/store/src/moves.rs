//! Changes of a capsule's status: on condition, and together with their event and operation.

use crate::capsules::{ACCESS_TOKEN, ALLOW_OUT, DENY_OUT, ENVS, json, live_of, signed};
use crate::entity::{host, sandbox};
use crate::error::StoreError;
use crate::load::{self, HostLoad};
use crate::open::Store;
use crate::operations::{self, Pending, Task};
use crate::outbox::{self, NewEvent};
use crate::time::now;
use lifecycle::server::event_name;
use model::{
    Capsule, CapsuleId, CapsuleStatus, EndReason, HostId, Lifetime, Secret, Size, Surroundings, TeamId, TemplateId,
};
use sea_orm::sea_query::Expr;
use sea_orm::{ActiveValue::Set, ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A capsule to be.
#[derive(Debug, Clone)]
pub struct NewCapsule {
    /// Which.
    pub id: CapsuleId,
    /// Whose.
    pub team: TeamId,
    /// Name of its template.
    pub template: String,
    /// From which template.
    pub template_id: TemplateId,
    /// The snapshot on its host it begins as a clone of.
    pub snapshot: Option<Uuid>,
    /// How large.
    pub size: Size,
    /// When it ends by itself.
    pub lifetime: Lifetime,
    /// What its guest is told.
    pub surroundings: Surroundings,
    /// Secret of the guest daemon's API.
    pub access_token: Secret,
    /// Labels.
    pub metadata: BTreeMap<String, String>,
}

/// What became of a [`NewCapsule`].
#[derive(Debug, Clone, PartialEq)]
pub enum Placement {
    /// It is `starting`, and this operation with it.
    Placed(Box<Capsule>, Pending),
    /// No host was chosen.
    NoHost,
    /// Its team has as many as it may have.
    TeamFull,
}

/// A change of status.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Why it does not run; absent clears an old reason.
    pub reason: Option<EndReason>,
    /// What its host told with it.
    pub facts: Option<Facts>,
    /// A new lifetime.
    pub lifetime: Option<Lifetime>,
    /// The operation that begins with it.
    pub task: Option<Task>,
}

/// What a host tells of a capsule that runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// What separates it from its host.
    pub isolation: String,
    /// Versions it runs on.
    pub versions: BTreeMap<String, String>,
}

impl Store {
    /// Places a capsule and writes it. The hosts' load cannot change between `choose` and the write.
    pub async fn place(
        &self,
        new: NewCapsule,
        team_most: u64,
        choose: impl FnOnce(&[HostLoad]) -> Option<HostId> + Send,
    ) -> Result<Placement, StoreError> {
        let transaction = self.begin().await?;
        // Postgres has no single writer: whoever places a capsule holds every host's row.
        host::Entity::find().order_by_asc(host::Column::Id).lock_exclusive().all(&transaction).await?;
        if live_of(new.team, &transaction).await? >= team_most {
            return Ok(Placement::TeamFull);
        }
        let Some(host) = choose(&load::read(&transaction).await?) else { return Ok(Placement::NoHost) };
        let (id, task) = (new.id, Task::Create { snapshot: new.snapshot });
        let row = sandbox::Entity::insert(self.row(new, host)?).exec_with_returning(&transaction).await?;
        let capsule = self.read_capsule(row)?;
        let pending = operations::begin(id, capsule.revision, task, &transaction).await?;
        announce(&capsule, None, &transaction).await?;
        self.commit(transaction).await?;
        Ok(Placement::Placed(Box::new(capsule), pending))
    }

    /// Moves a capsule to another status, provided that it still has the status and revision it was read with;
    /// `None` when it has not, and nothing is written. Whatever operation was under way ends.
    pub async fn move_capsule(
        &self,
        read: &Capsule,
        to: CapsuleStatus,
        change: Change,
    ) -> Result<Option<(Capsule, Option<Pending>)>, StoreError> {
        let transaction = self.begin().await?;
        let Some(row) = self.write_move(read, to, &change, &transaction).await? else { return Ok(None) };
        let capsule = self.read_capsule(row)?;
        operations::end(capsule.id, &transaction).await?;
        let pending = match change.task {
            Some(task) => Some(operations::begin(capsule.id, capsule.revision, task, &transaction).await?),
            None => None,
        };
        announce(&capsule, Some(read.status), &transaction).await?;
        self.commit(transaction).await?;
        Ok(Some((capsule, pending)))
    }

    async fn write_move(
        &self,
        read: &Capsule,
        to: CapsuleStatus,
        change: &Change,
        transaction: &DatabaseTransaction,
    ) -> Result<Option<sandbox::Model>, StoreError> {
        use sandbox::Column;
        let now = now();
        let revision: i64 = signed("revision", read.revision)?;
        let mut update = sandbox::Entity::update_many()
            .col_expr(Column::Status, Expr::value(to.as_str()))
            .col_expr(Column::Revision, Expr::value(revision.saturating_add(1)))
            .col_expr(Column::Reason, Expr::value(change.reason.as_ref().map(ToString::to_string)))
            .col_expr(Column::StatusChangedAt, Expr::value(now));
        if to == CapsuleStatus::Running {
            update = update.col_expr(Column::LastActiveAt, Expr::value(now));
            if read.started_at.is_none() {
                update = update.col_expr(Column::StartedAt, Expr::value(now));
            }
        }
        if let Some(facts) = &change.facts {
            update = update
                .col_expr(Column::Isolation, Expr::value(facts.isolation.as_str()))
                .col_expr(Column::Versions, Expr::value(json("versions", &facts.versions)?));
        }
        if let Some(lifetime) = &change.lifetime {
            update = update.col_expr(Column::Lifetime, Expr::value(json("lifetime", lifetime)?));
        }
        let rows = update
            .filter(Column::Id.eq(read.id.uuid()))
            .filter(Column::Status.eq(read.status.as_str()))
            .filter(Column::Revision.eq(revision))
            .exec_with_returning(transaction)
            .await?;
        Ok(rows.into_iter().next())
    }

    fn row(&self, new: NewCapsule, host: HostId) -> Result<sandbox::ActiveModel, StoreError> {
        let id = new.id.uuid();
        let now = now();
        let envs = json(ENVS, &new.surroundings.envs)?.to_string();
        Ok(sandbox::ActiveModel {
            id: Set(id),
            team_id: Set(new.team.uuid()),
            host_id: Set(host.uuid()),
            template: Set(new.template),
            template_id: Set(new.template_id.uuid()),
            status: Set(CapsuleStatus::Starting.as_str().to_owned()),
            revision: Set(0),
            reason: Set(None),
            vcpus: Set(signed("vcpus", new.size.vcpus)?),
            memory_mb: Set(signed("memory_mb", new.size.memory_mb)?),
            disk_size_mb: Set(signed("disk_size_mb", new.size.disk_mb)?),
            lifetime: Set(json("lifetime", &new.lifetime)?),
            default_user: Set(new.surroundings.default_user),
            default_workdir: Set(new.surroundings.default_workdir),
            envs: Set(self.seal().seal(ENVS, id, envs.as_bytes())),
            offline: Set(!new.surroundings.egress.allow_internet),
            allow_out: Set(json(ALLOW_OUT, &new.surroundings.egress.allow_out)?),
            deny_out: Set(json(DENY_OUT, &new.surroundings.egress.deny_out)?),
            access_token: Set(self.seal().seal(ACCESS_TOKEN, id, new.access_token.expose().as_bytes())),
            metadata: Set(json("metadata", &new.metadata)?),
            versions: Set(serde_json::json!({})),
            isolation: Set(String::new()),
            created_at: Set(now),
            status_changed_at: Set(now),
            started_at: Set(None),
            last_active_at: Set(None),
        })
    }
}

async fn announce(
    capsule: &Capsule,
    from: Option<CapsuleStatus>,
    transaction: &DatabaseTransaction,
) -> Result<(), StoreError> {
    let body = serde_json::json!({
        "from": from,
        "to": capsule.status,
        "reason": capsule.reason,
        "host": capsule.host,
        "revision": capsule.revision,
    });
    let (team, subject, name) = (capsule.team, capsule.id.uuid(), event_name(capsule.status));
    outbox::write(NewEvent { team, subject, name, body }, transaction).await
}
