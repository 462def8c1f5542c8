//! Templates.

use crate::capsules::{json, signed, typed, unsigned};
use crate::entity::{template, template_host};
use crate::error::StoreError;
use crate::open::Store;
use crate::outbox::{self, NewEvent};
use model::{CapsuleId, HostId, TeamId, Template, TemplateId};
use sea_orm::{ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder};
use uuid::Uuid;

/// How often a replacement that others forestall is tried.
const REPLACES: usize = 5;

/// A template and those who hold it; none = every host does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldTemplate {
    /// The template.
    pub template: Template,
    /// The hosts.
    pub hosts: Vec<HostId>,
}

/// A template that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// It.
    pub template: Template,
    /// The one of the same name that it took the place of.
    pub replaced: Option<HeldTemplate>,
}

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
    pub async fn template(&self, team: TeamId, name: &str) -> Result<Option<HeldTemplate>, StoreError> {
        let rows = template::Entity::find()
            .filter(template::Column::TeamId.is_in([team.uuid(), TeamId::PLATFORM.uuid()]))
            .filter(template::Column::Name.eq(name))
            .all(self.db())
            .await?;
        let own = rows.iter().position(|row| row.team_id == team.uuid());
        held(rows.into_iter().nth(own.unwrap_or(0)), self.db()).await
    }

    /// A template that a team can use, by its id.
    pub async fn template_by_id(&self, team: TeamId, id: TemplateId) -> Result<Option<HeldTemplate>, StoreError> {
        let row = template::Entity::find_by_id(id.uuid())
            .filter(template::Column::TeamId.is_in([team.uuid(), TeamId::PLATFORM.uuid()]))
            .one(self.db())
            .await?;
        held(row, self.db()).await
    }

    /// Writes a template that a host holds, with its event. `None` when the team has one of this name that is not to be
    /// replaced.
    pub async fn add_template(&self, new: Template, host: HostId, replace: bool) -> Result<Option<Added>, StoreError> {
        for _ in 0..REPLACES {
            match self.try_add_template(new.clone(), host, replace).await {
                // Somebody else was first, and may be replaced.
                Err(StoreError::Duplicate(_)) if replace => {}
                Err(StoreError::Duplicate(_)) => return Ok(None),
                added => return added,
            }
        }
        Ok(None)
    }

    async fn try_add_template(&self, new: Template, host: HostId, replace: bool) -> Result<Option<Added>, StoreError> {
        let transaction = self.begin().await?;
        let old = template::Entity::find()
            .filter(template::Column::TeamId.eq(new.team.uuid()))
            .filter(template::Column::Name.eq(new.name.as_str()))
            .one(&transaction)
            .await?;
        if old.is_some() && !replace {
            return Ok(None);
        }
        let replaced = held(old, &transaction).await?;
        if let Some(old) = &replaced {
            erase(&old.template, &transaction).await?;
        }
        let place = template_host::ActiveModel { template_id: Set(new.id.uuid()), host_id: Set(host.uuid()) };
        let template = read(template::Entity::insert(row(new)?).exec_with_returning(&transaction).await?)?;
        template_host::Entity::insert(place).exec_without_returning(&transaction).await?;
        announce(&template, "template.snapshot.created", &transaction).await?;
        self.commit(transaction).await?;
        Ok(Some(Added { template, replaced }))
    }

    /// Removes a template, with its event; false when it is gone already.
    pub async fn remove_template(&self, template: &Template) -> Result<bool, StoreError> {
        let transaction = self.begin().await?;
        let removed = erase(template, &transaction).await?;
        self.commit(transaction).await?;
        Ok(removed)
    }

    /// The templates that a host holds.
    pub async fn templates_on(&self, host: HostId) -> Result<Vec<Uuid>, StoreError> {
        let rows = template_host::Entity::find().filter(template_host::Column::HostId.eq(host.uuid()));
        Ok(rows.all(self.db()).await?.into_iter().map(|row| row.template_id).collect())
    }
}

async fn held(row: Option<template::Model>, db: &impl ConnectionTrait) -> Result<Option<HeldTemplate>, StoreError> {
    let Some(row) = row else { return Ok(None) };
    let places = match row.source_id {
        Some(_) => template_host::Entity::find().filter(template_host::Column::TemplateId.eq(row.id)).all(db).await?,
        // Not made of a capsule, and so everywhere: one question less in most creates.
        None => Vec::new(),
    };
    let hosts = places.into_iter().map(|place| HostId::from_uuid(place.host_id)).collect();
    Ok(Some(HeldTemplate { template: read(row)?, hosts }))
}

async fn erase(template: &Template, db: &impl ConnectionTrait) -> Result<bool, StoreError> {
    let removed = template::Entity::delete_by_id(template.id.uuid()).exec(db).await?.rows_affected > 0;
    if removed {
        announce(template, "template.snapshot.deleted", db).await?;
    }
    Ok(removed)
}

async fn announce(template: &Template, name: &str, db: &impl ConnectionTrait) -> Result<(), StoreError> {
    let body = serde_json::json!({ "name": template.name, "source": template.source });
    outbox::write(NewEvent { team: template.team, subject: template.id.uuid(), name, body }, db).await
}

fn row(new: Template) -> Result<template::ActiveModel, StoreError> {
    Ok(template::ActiveModel {
        id: Set(new.id.uuid()),
        team_id: Set(new.team.uuid()),
        name: Set(new.name),
        r#type: Set(if new.snapshot { "snapshot" } else { "base" }.to_owned()),
        vcpus: Set(signed("vcpus", new.vcpus)?),
        memory_mb: Set(signed("memory_mb", new.memory_mb)?),
        disk_size_mb: Set(signed("disk_size_mb", new.disk_mb)?),
        size_bytes: Set(signed("size_bytes", new.size_bytes)?),
        default_user: Set(new.default_user),
        default_env: Set(json("default_env", &new.default_env)?),
        created_at: Set(new.created_at),
        source_id: Set(new.source.map(CapsuleId::uuid)),
    })
}

fn read(row: template::Model) -> Result<Template, StoreError> {
    Ok(Template {
        id: TemplateId::from_uuid(row.id),
        team: TeamId::from_uuid(row.team_id),
        name: row.name,
        snapshot: row.r#type == "snapshot",
        vcpus: unsigned("vcpus", row.vcpus)?,
        memory_mb: unsigned("memory_mb", row.memory_mb)?,
        disk_mb: unsigned("disk_size_mb", row.disk_size_mb)?,
        size_bytes: unsigned("size_bytes", row.size_bytes)?,
        default_user: row.default_user,
        default_env: typed("default_env", row.default_env)?,
        created_at: row.created_at,
        source: row.source_id.map(CapsuleId::from_uuid),
    })
}
