//! Templates: finding the one a request names, keeping a capsule as one, giving one up.
//!
//! A template made of a capsule is a snapshot on that capsule's host, under the template's id. The snapshot is taken first
//! and the row written last; a snapshot without a row is given up like that of a fork.

use crate::fork::{delete, within};
use crate::{Fleet, SaveTemplate};
use chrono::Utc;
use model::{Capsule, CapsuleId, CapsuleStatus, Code, Error, HostId, TeamId, Template, TemplateId, check, limits};
use proto::hostagent::v1 as wire;
use std::collections::BTreeMap;
use std::time::Duration;
use store::HeldTemplate;
use uuid::Uuid;

/// Names under which SDKs ask for the template that every installation has.
const ALIASES: [&str; 2] = ["base", "minimal-ubuntu"];
const MINIMAL: &str = "minimal";
/// Limit of taking one: a large memory on a slow disk.
const SAVE_CALL: Duration = Duration::from_mins(5);

impl Fleet {
    /// What a team can make capsules from: its own templates and the platform's.
    pub async fn templates(&self, team: TeamId) -> Result<Vec<Template>, Error> {
        Ok(self.store().templates(team).await?)
    }

    /// A template by name or id. A template of the team that is really called like an alias goes before it.
    pub async fn template(&self, team: TeamId, name: &str) -> Result<Template, Error> {
        self.held_template(team, name).await.map(|held| held.template)
    }

    pub(crate) async fn held_template(&self, team: TeamId, name: &str) -> Result<HeldTemplate, Error> {
        if !check::is_safe_name(name) {
            return Err(Error::invalid("template: expected letters, digits, `.`, `_` and `-`, at most 64"));
        }
        let mut found = self.store().template(team, name).await?;
        if found.is_none() && ALIASES.contains(&name) {
            found = self.store().template(team, MINIMAL).await?;
        }
        if found.is_none()
            && let Ok(id) = name.parse::<TemplateId>()
        {
            found = self.store().template_by_id(team, id).await?;
        }
        found.ok_or_else(|| Error::not_found(format_args!("template {name:?}")))
    }

    /// Keeps a running or paused capsule as a template; it stays what it is. The work outlives its caller.
    pub async fn save_template(&self, team: TeamId, id: CapsuleId, wish: SaveTemplate) -> Result<Template, Error> {
        let template = TemplateId::from_uuid(Uuid::now_v7());
        let name = match wish.name {
            Some(name) => name,
            None => format!("template-{:08x}", rand::random::<u32>()),
        };
        self.is_free(team, &name, wish.overwrite).await?;
        let source = self.when_ready(team, id).await?;
        if !matches!(source.status, CapsuleStatus::Running | CapsuleStatus::Paused) {
            let text = format!("the capsule is {}: only a running or paused one can be kept", source.status);
            return Err(Error::new(Code::InvalidState, text));
        }
        let fleet = self.clone();
        // A caller who left finds it in the list.
        self.to_its_end(async move {
            fleet.save_through(&source, template, name, wish.discard_memory, wish.overwrite).await
        })
        .await
    }

    /// Asked before a capsule is disturbed; the write at the end asks again.
    async fn is_free(&self, team: TeamId, name: &str, overwrite: bool) -> Result<(), Error> {
        let known = self.store().template(team, name).await?;
        let taken = |known: &HeldTemplate| known.template.team == team && known.template.id != TemplateId::MINIMAL;
        let own = self.store().templates(team).await?.iter().filter(|template| template.team == team).count();
        let most = limits::TEAM_TEMPLATES_MAX;
        match known {
            Some(known) if taken(&known) && overwrite => Ok(()),
            None if own >= most => {
                Err(Error::new(Code::RateLimited, format!("the team has {most} templates, as many as it may have")))
            }
            Some(known) if taken(&known) => Err(name_taken(name)),
            None if !ALIASES.contains(&name) => Ok(()),
            _ => Err(Error::new(Code::NameReserved, format!("the name {name:?} is the platform's"))),
        }
    }

    async fn save_through(
        &self,
        source: &Capsule,
        id: TemplateId,
        name: String,
        discard_memory: bool,
        overwrite: bool,
    ) -> Result<Template, Error> {
        let link = self.link(source.host)?;
        let request = wire::SnapshotSandboxRequest {
            sandbox_id: source.id.to_string(),
            snapshot_id: id.uuid().to_string(),
            discard_memory,
            ..Default::default()
        };
        let taken = match link.rpc().snapshot_sandbox_with_options(request, within(SAVE_CALL)).await {
            Ok(taken) => taken.into_owned(),
            Err(error) => {
                delete(&link, id.uuid()).await;
                return Err(hostlink::error(&error));
            }
        };
        tracing::info!(capsule = %source.id, template = %id, standstill_us = taken.standstill_us, "kept as a template");
        let new = self.described(source, id, name, !discard_memory, taken.size_bytes).await?;
        let name = new.name.clone();
        let added = match self.store().add_template(new, source.host, overwrite).await {
            Ok(Some(added)) => added,
            other => {
                delete(&link, id.uuid()).await;
                return Err(other.map_or_else(Error::from, |_| name_taken(&name)));
            }
        };
        if let Some(old) = added.replaced {
            self.clear(old.template.id, &old.hosts).await;
        }
        Ok(added.template)
    }

    /// User and environment are those of the source's own template: what a request added for one capsule stays with it.
    async fn described(
        &self,
        source: &Capsule,
        id: TemplateId,
        name: String,
        snapshot: bool,
        size_bytes: u64,
    ) -> Result<Template, Error> {
        let origin = self.store().template_by_id(source.team, source.template_id).await?.map(|held| held.template);
        let (default_user, default_env) =
            origin.map_or_else(|| ("root".to_owned(), BTreeMap::new()), |own| (own.default_user, own.default_env));
        Ok(Template {
            id,
            team: source.team,
            name,
            snapshot,
            vcpus: source.size.vcpus,
            memory_mb: source.size.memory_mb,
            disk_mb: source.size.disk_mb,
            size_bytes,
            default_user,
            default_env,
            created_at: Utc::now(),
            source: Some(source.id),
        })
    }

    /// Gives a template of the team up, by name or id. Capsules made of it are not touched.
    pub async fn delete_template(&self, team: TeamId, name: &str) -> Result<(), Error> {
        let HeldTemplate { template, hosts } = self.held_template(team, name).await?;
        if template.team != team || template.id == TemplateId::MINIMAL {
            return Err(Error::new(Code::Forbidden, format!("the template {name:?} is the platform's")));
        }
        if !self.store().remove_template(&template).await? {
            return Err(Error::not_found(format_args!("template {name:?}")));
        }
        self.clear(template.id, &hosts).await;
        Ok(())
    }

    /// Has hosts give up what they hold of a template that is gone. One that is not reached does so at a later look.
    async fn clear(&self, id: TemplateId, hosts: &[HostId]) {
        for host in hosts {
            match self.link(*host) {
                Ok(link) => delete(&link, id.uuid()).await,
                Err(error) => tracing::warn!(template = %id, %host, %error, "not given up yet"),
            }
        }
    }
}

fn name_taken(name: &str) -> Error {
    Error::new(Code::TemplateNameTaken, format!("the team has a template {name:?}"))
}
