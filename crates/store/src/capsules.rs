//! Capsules: reading them, and the writes that do not touch their status.

use crate::entity::sandbox;
use crate::error::{StoreError, unreadable};
use crate::open::Store;
use crate::time::whole;
use chrono::{DateTime, Utc};
use model::{
    Capsule, CapsuleId, CapsuleStatus, Egress, EndReason, HostId, Lifetime, Secret, Size, Surroundings, TeamId,
    TemplateId,
};
use sea_orm::sea_query::{Expr, ExprTrait, extension::postgres::PgExpr};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbBackend, EntityTrait, Order, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect,
};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Field names under which secrets are sealed.
pub(crate) const ACCESS_TOKEN: &str = "sandboxes.access_token";
pub(crate) const ENVS: &str = "sandboxes.envs";
/// Names of lists in errors.
pub(crate) const ALLOW_OUT: &str = "allow_out";
pub(crate) const DENY_OUT: &str = "deny_out";

/// Which capsules to read.
#[derive(Debug, Clone, Default)]
pub struct CapsuleQuery {
    /// Of this team.
    pub team: Option<TeamId>,
    /// On this host.
    pub host: Option<HostId>,
    /// Any of these; empty = all that are neither stopped nor failed.
    pub states: Vec<CapsuleStatus>,
    /// All of these labels.
    pub metadata: BTreeMap<String, String>,
    /// Made from a template of this name.
    pub template: Option<String>,
    /// Asked for at this time or later.
    pub created_after: Option<DateTime<Utc>>,
    /// Behind this one.
    pub after: Option<After>,
    /// By default the newest come first.
    pub oldest_first: bool,
    /// Most rows; absent = all.
    pub limit: Option<u64>,
}

/// A place in a list.
#[derive(Debug, Clone, Copy)]
pub struct After {
    /// When the last one read was asked for.
    pub created_at: DateTime<Utc>,
    /// The last one read.
    pub id: CapsuleId,
}

impl Store {
    /// A capsule, whatever its status.
    pub async fn capsule(&self, id: CapsuleId) -> Result<Option<Capsule>, StoreError> {
        let row = sandbox::Entity::find_by_id(id.uuid()).one(self.db()).await?;
        row.map(|row| self.read_capsule(row)).transpose()
    }

    /// Capsules.
    pub async fn capsules(&self, query: &CapsuleQuery) -> Result<Vec<Capsule>, StoreError> {
        let order = if query.oldest_first { Order::Asc } else { Order::Desc };
        let rows = sandbox::Entity::find()
            .filter(condition(query, self.db().get_database_backend()))
            .order_by(sandbox::Column::CreatedAt, order.clone())
            .order_by(sandbox::Column::Id, order)
            .limit(query.limit)
            .all(self.db())
            .await?;
        rows.into_iter().map(|row| self.read_capsule(row)).collect()
    }

    /// Replaces a lifetime with what `change` makes of it; `None` leaves it. Answers what then holds, or nothing
    /// when there is no such capsule.
    pub async fn change_lifetime(
        &self,
        id: CapsuleId,
        change: impl FnOnce(Lifetime) -> Option<Lifetime> + Send,
    ) -> Result<Option<Capsule>, StoreError> {
        let transaction = self.begin().await?;
        let row = sandbox::Entity::find_by_id(id.uuid()).lock_exclusive().one(&transaction).await?;
        let Some(row) = row else { return Ok(None) };
        let mut capsule = self.read_capsule(row)?;
        if let Some(lifetime) = change(capsule.lifetime) {
            let value = json("lifetime", &lifetime)?;
            sandbox::Entity::update_many()
                .col_expr(sandbox::Column::Lifetime, Expr::value(value))
                .filter(sandbox::Column::Id.eq(id.uuid()))
                .exec(&transaction)
                .await?;
            capsule.lifetime = lifetime;
        }
        transaction.commit().await?;
        Ok(Some(capsule))
    }

    /// Replaces what a capsule may reach. Answers what then holds, or nothing when there is no such capsule.
    pub async fn change_egress(&self, id: CapsuleId, egress: &Egress) -> Result<Option<Capsule>, StoreError> {
        use sandbox::Column;
        let rows = sandbox::Entity::update_many()
            .col_expr(Column::Offline, Expr::value(!egress.allow_internet))
            .col_expr(Column::AllowOut, Expr::value(json(ALLOW_OUT, &egress.allow_out)?))
            .col_expr(Column::DenyOut, Expr::value(json(DENY_OUT, &egress.deny_out)?))
            .filter(Column::Id.eq(id.uuid()))
            .exec_with_returning(self.db())
            .await?;
        rows.into_iter().next().map(|row| self.read_capsule(row)).transpose()
    }

    /// Notes activity. It never goes back.
    pub async fn touch_capsule(&self, id: CapsuleId, at: DateTime<Utc>) -> Result<(), StoreError> {
        let at = whole(at);
        let active = sandbox::Column::LastActiveAt;
        sandbox::Entity::update_many()
            .col_expr(active, Expr::value(at))
            .filter(sandbox::Column::Id.eq(id.uuid()))
            .filter(active.is_null().or(active.lt(at)))
            .exec(self.db())
            .await?;
        Ok(())
    }

    pub(crate) fn read_capsule(&self, row: sandbox::Model) -> Result<Capsule, StoreError> {
        let open = |field, sealed: &[u8]| self.seal().open(field, row.id, sealed);
        let token = String::from_utf8(open(ACCESS_TOKEN, &row.access_token)?);
        let envs = serde_json::from_slice(&open(ENVS, &row.envs)?);
        Ok(Capsule {
            id: CapsuleId::from_uuid(row.id),
            team: TeamId::from_uuid(row.team_id),
            host: HostId::from_uuid(row.host_id),
            template: row.template,
            template_id: TemplateId::from_uuid(row.template_id),
            size: Size {
                vcpus: unsigned("vcpus", row.vcpus)?,
                memory_mb: unsigned("memory_mb", row.memory_mb)?,
                disk_mb: unsigned("disk_size_mb", row.disk_size_mb)?,
            },
            lifetime: typed("lifetime", row.lifetime)?,
            surroundings: Surroundings {
                default_user: row.default_user,
                default_workdir: row.default_workdir,
                envs: envs.map_err(|error| unreadable(ENVS, error))?,
                egress: Egress {
                    allow_internet: !row.offline,
                    allow_out: typed(ALLOW_OUT, row.allow_out)?,
                    deny_out: typed(DENY_OUT, row.deny_out)?,
                },
            },
            access_token: Secret::new(token.map_err(|error| unreadable(ACCESS_TOKEN, error))?),
            metadata: typed("metadata", row.metadata)?,
            versions: typed("versions", row.versions)?,
            isolation: row.isolation,
            status: row.status.parse().map_err(|error| unreadable("status", error))?,
            revision: unsigned("revision", row.revision)?,
            reason: row.reason.as_deref().map(EndReason::parse),
            created_at: row.created_at,
            status_changed_at: row.status_changed_at,
            started_at: row.started_at,
            last_active_at: row.last_active_at,
        })
    }
}

/// How many capsules of a team are neither stopped nor failed.
pub(crate) async fn live_of(team: TeamId, db: &impl ConnectionTrait) -> Result<u64, StoreError> {
    let rows = sandbox::Entity::find()
        .filter(sandbox::Column::TeamId.eq(team.uuid()))
        .filter(sandbox::Column::Status.is_not_in(terminal()));
    Ok(rows.count(db).await?)
}

/// Texts of the statuses nothing leaves.
pub(crate) fn terminal() -> impl Iterator<Item = &'static str> {
    CapsuleStatus::ALL.into_iter().filter(|status| status.is_terminal()).map(CapsuleStatus::as_str)
}

fn condition(query: &CapsuleQuery, backend: DbBackend) -> Condition {
    use sandbox::Column;
    let states = match query.states.as_slice() {
        [] => Column::Status.is_not_in(terminal()),
        states => Column::Status.is_in(states.iter().map(|status| status.as_str())),
    };
    let mut all = Condition::all()
        .add(states)
        .add_option(query.team.map(|team| Column::TeamId.eq(team.uuid())))
        .add_option(query.host.map(|host| Column::HostId.eq(host.uuid())))
        .add_option(query.template.as_ref().map(|name| Column::Template.eq(name)))
        .add_option(query.created_after.map(|time| Column::CreatedAt.gte(time)))
        .add_option(query.after.map(|after| behind(after, query.oldest_first)));
    for (key, value) in &query.metadata {
        all = all.add(labelled(key, value, backend));
    }
    all
}

fn behind(After { created_at, id }: After, oldest_first: bool) -> Condition {
    use sandbox::Column;
    let (time, tie) = if oldest_first {
        (Column::CreatedAt.gt(created_at), Column::Id.gt(id.uuid()))
    } else {
        (Column::CreatedAt.lt(created_at), Column::Id.lt(id.uuid()))
    };
    Condition::any().add(time).add(Condition::all().add(Column::CreatedAt.eq(created_at)).add(tie))
}

/// The two databases look into JSON by different means; both take any key, however odd.
fn labelled(key: &str, value: &str, backend: DbBackend) -> Expr {
    let metadata = || Expr::col(sandbox::Column::Metadata);
    match backend {
        DbBackend::Postgres => metadata().cast_json_field(key).eq(value),
        _ => Expr::cust_with_values(
            r#"EXISTS (SELECT 1 FROM json_each("sandboxes"."metadata") AS label WHERE label.key = ? AND label.value = ?)"#,
            [key, value],
        ),
    }
}

/// A number that was stored signed, because the databases have no others.
pub(crate) fn unsigned<S, U: TryFrom<S>>(field: &str, number: S) -> Result<U, StoreError> {
    U::try_from(number).map_err(|_| unreadable(field, "out of range"))
}

/// A number to be stored signed.
pub(crate) fn signed<U, S: TryFrom<U>>(field: &str, number: U) -> Result<S, StoreError> {
    S::try_from(number).map_err(|_| unreadable(field, "too large"))
}

pub(crate) fn typed<T: DeserializeOwned>(field: &str, value: serde_json::Value) -> Result<T, StoreError> {
    serde_json::from_value(value).map_err(|error| unreadable(field, error))
}

pub(crate) fn json(field: &str, value: &impl serde::Serialize) -> Result<serde_json::Value, StoreError> {
    serde_json::to_value(value).map_err(|error| unreadable(field, error))
}

/// A UUID that sorts by time.
pub(crate) fn ordered_id() -> Uuid {
    Uuid::now_v7()
}
