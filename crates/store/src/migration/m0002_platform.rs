//! The platform's own team and its template `minimal`. Written against columns rather than entities: those change.

use crate::time::now;
use model::{TeamId, TemplateId, limits};
use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let platform = TeamId::PLATFORM.uuid();
        let mut team = Query::insert();
        team.into_table("teams").columns(["id", "name", "slug", "created_at"]);
        team.values_panic([platform.into(), "Platform".into(), "platform".into(), now().into()]);
        manager.execute(team).await?;
        let mut minimal = Query::insert();
        let columns: [(&str, SimpleExpr); 10] = [
            ("id", TemplateId::MINIMAL.uuid().into()),
            ("team_id", platform.into()),
            ("name", "minimal".into()),
            ("type", "base".into()),
            ("vcpus", limits::VCPUS_DEFAULT.into()),
            ("memory_mb", limits::MEMORY_MB_DEFAULT.into()),
            ("size_bytes", 0.into()),
            ("default_user", "root".into()),
            ("default_env", serde_json::json!({}).into()),
            ("created_at", now().into()),
        ];
        let (names, values): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        minimal.into_table("templates").columns(names).values_panic(values);
        manager.execute(minimal).await
    }

    /// What refers to the platform's team goes before it. Operations go with their capsules.
    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let platform = TeamId::PLATFORM.uuid();
        for table in ["events", "sandboxes", "templates", "team_api_keys", "users_teams"] {
            let dependents = Query::delete().from_table(table).and_where(Expr::col("team_id").eq(platform)).take();
            manager.execute(dependents).await?;
        }
        let team = Query::delete().from_table("teams").and_where(Expr::col("id").eq(platform)).take();
        manager.execute(team).await
    }
}
