//! Templates made of capsules: which capsule, and which hosts hold them.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{uuid, uuid_null};

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.alter_table(Table::alter().table("templates").add_column(uuid_null("source_id")).take()).await?;
        let reference = |column: &'static str, table: &'static str| {
            ForeignKey::create()
                .from("template_hosts", column)
                .to(table, "id")
                .on_delete(ForeignKeyAction::Cascade)
                .take()
        };
        let places = Table::create()
            .table("template_hosts")
            .col(uuid("template_id"))
            .col(uuid("host_id"))
            .primary_key(Index::create().col("template_id").col("host_id"))
            .foreign_key(&mut reference("template_id", "templates"))
            .foreign_key(&mut reference("host_id", "hosts"))
            .take();
        manager.create_table(places).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table("template_hosts").take()).await?;
        manager.alter_table(Table::alter().table("templates").drop_column("source_id").take()).await
    }
}
