//! Templates.

use crate::capsules::{typed, unsigned};
use crate::entity::template;
use crate::error::StoreError;
use crate::open::Store;
use model::{TeamId, Template, TemplateId};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};

impl Store {
    /// What a team can make capsules from: its own and the platform's, oldest first.
    pub async fn templates(&self, team: TeamId) -> Result<Vec<Template>, StoreError> {
        let rows = template::Entity::find()
            .filter(template::Column::TeamId.is_in([team.uuid(), TeamId::PLATFORM.uuid()]))
            .order_by_asc(template::Column::CreatedAt)
            .order_by_asc(template::Column::Id)
            .all(self.db())
            .await?;
        rows.into_iter().map(read).collect()
    }

    /// A template by name. A team's own goes before the platform's of the same name.
    pub async fn template(&self, team: TeamId, name: &str) -> Result<Option<Template>, StoreError> {
        let rows = template::Entity::find()
            .filter(template::Column::TeamId.is_in([team.uuid(), TeamId::PLATFORM.uuid()]))
            .filter(template::Column::Name.eq(name))
            .all(self.db())
            .await?;
        let own = rows.iter().position(|row| row.team_id == team.uuid());
        rows.into_iter().nth(own.unwrap_or(0)).map(read).transpose()
    }
}

fn read(row: template::Model) -> Result<Template, StoreError> {
    Ok(Template {
        id: TemplateId::from_uuid(row.id),
        team: TeamId::from_uuid(row.team_id),
        name: row.name,
        snapshot: row.r#type == "snapshot",
        vcpus: unsigned("vcpus", row.vcpus)?,
        memory_mb: unsigned("memory_mb", row.memory_mb)?,
        size_bytes: unsigned("size_bytes", row.size_bytes)?,
        default_user: row.default_user,
        default_env: typed("default_env", row.default_env)?,
        created_at: row.created_at,
    })
}
